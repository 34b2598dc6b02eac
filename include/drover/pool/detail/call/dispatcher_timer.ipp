#pragma once

#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/dispatcher.hpp>

/// What a dispatcher does at certain times: deadlines, kill_after, and calls that were sent ahead and are late.
namespace drover { inline namespace v1 { namespace detail {

inline void Dispatcher::time(Call& call, Clock::time_point at) {
  deadlines_.add(call, at);
  if (!armed_at_ || at < *armed_at_) arm();
}

inline void Dispatcher::arm() {
  const auto registry_lock = registry_->lock();
  if (!io_ || registry_->closed() || (deadlines_.empty() && !sent_ahead_.next_look())) return;
  armed_at_.reset();  // until the timer waits
  const Clock::time_point next = *earlier(deadlines_.next(), sent_ahead_.next_look());
  if (next == Clock::time_point::max()) return;
  io_->timer.expires_at(next);
  io_->timer.async_wait([self = weak_from_this()](std::error_code ec) {
    if (ec) return;
    if (const auto dispatcher = self.lock()) dispatcher->on_timer();
  });
  armed_at_ = next;
}

inline std::string late_text(const Call& call) {
  return "the call of '" + call.routine() + "' did not end in time; it " +
         (call.state == CallState::running ? "ran in " + call.link->worker().describe() : "waited for a free worker");
}

inline void Dispatcher::on_timer() {
  std::vector<std::pair<std::shared_ptr<Call>, std::string>> expired;
  {
    const auto held = lock();
    armed_at_.reset();
    const auto now = Clock::now();
    ++timer_turn_;
    recall_late_calls(now);
    while (!deadlines_.empty() && deadlines_.first().deadline.at <= now) {
      Call& call = deadlines_.first();
      // The result may have arrived already, if it was this process that slept.
      if (call.link != nullptr && std::exchange(call.link->read_in_turn, timer_turn_) != timer_turn_) {
        call.link->worker().read_results(16);
        continue;
      }
      if (call.state == CallState::abandoned) {  // kill_after has passed
        deadlines_.remove(call);
        call.link->worker().kill_worker();
        continue;
      }
      std::string text;
      try {
        text = late_text(call);
        if (expired.size() == expired.capacity()) expired.reserve(2 * expired.size() + 8);
      } catch (const std::bad_alloc&) {  // the others do not wait for memory
        deadlines_.add(call, now + Channel::memory_pause);
        continue;
      }
      deadlines_.remove(call);
      auto keep_alive = call.shared_from_this();
      if (end_for_caller(call, CallEvent::expired)) expired.emplace_back(std::move(keep_alive), std::move(text));
    }
    try {
      arm();
    } catch (const std::bad_alloc&) {  // the next call with a deadline tries again; these callers do not wait for that
    }
  }
  for (auto& [call, text] : expired) {
    // A statement of its own: the Error that is copied here is destroyed before the caller, perhaps on another thread,
    // gets its own. ThreadSanitizer does not see the reference count of the text that libstdc++ lets them share.
    auto failure = std::make_exception_ptr(Error(Errc::deadline_exceeded, text));
    complete_with_error(std::move(call), std::move(failure));
  }
  run_completions(true);
}

/// Looks at the calls that were sent ahead in a while, if there is another worker for them.
inline void Dispatcher::watch_calls_ahead() noexcept {
  if (chooser_.size() < 2 || !sent_ahead_.begin_looking()) return;
  try {
    if (!armed_at_ || *sent_ahead_.next_look() < *armed_at_) arm();
  } catch (...) {  // no memory: the next call that is sent ahead tries again
    sent_ahead_.stop_looking();
  }
}

inline void Dispatcher::recall(Call& call) {
  if (std::exchange(call.recalled, true)) return;
  if (call.state == CallState::ahead) sent_ahead_.remove(call);
  call.link->send_nothing_ahead();
  call.link->worker().send_recall(call.id);
}

/// Calls that were sent ahead and are still not begun after a while wait behind a long call. They are recalled, so that
/// another worker can run them.
inline void Dispatcher::recall_late_calls(Clock::time_point now) noexcept {
  if (!sent_ahead_.is_due(now)) return;
  if (refusal_ && !keeps_queue_) return sent_ahead_.stop_looking();  // a stop: what was sent is still run
  try {
    sent_ahead_.look(now, [this](Call& call) { recall(call); });
  } catch (...) {  // the control socket is lost, and there was no memory to report that: the worker's exit does
  }
}

}}}  // namespace drover::v1::detail
