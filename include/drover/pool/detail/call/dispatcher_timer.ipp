#pragma once

#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/dispatcher.hpp>

/// The timer of a dispatcher wakes it for deadlines, for kill_after, and for late calls that were sent ahead.
namespace drover { inline namespace v1 { namespace detail {

inline void Dispatcher::time(Call& call, Clock::time_point at) {
  timer_.add(call, at);
  timer_.arm_by(at, sent_ahead_.next_look(), weak_from_this());
}

/// The worker begins the call.
inline void Dispatcher::time_run(Call& call) {
  if (const auto end = earlier(call.due, deadline_after(Clock::now(), call.run_for))) time(call, *end);
}

inline std::string late_text(const Call& call, Clock::time_point now) {
  const bool ran = call.state == CallState::running;
  if (ran && call.run_for && !(call.due && *call.due <= now))
    return "the call of '" + call.routine() + "' ran for longer than CallOptions::run_for in " +
           call.link->worker().describe();
  return "the call of '" + call.routine() + "' did not end in time; it " +
         (ran                                ? "ran in " + call.link->worker().describe()
          : call.state == CallState::resting ? "rested before another attempt"
                                             : "waited for a free worker");
}

inline void Dispatcher::on_timer() {
  std::vector<std::pair<std::shared_ptr<Call>, std::string>> expired;
  {
    const auto held = lock();
    timer_.fired();
    const auto now = Clock::now();
    ++timer_turn_;
    if (admission_.refuses_queued())
      sent_ahead_.stop_looking();  // a stop: what was sent is still run
    else
      sent_ahead_.recall_late(now);
    while (Call* const due = timer_.due(now)) {
      Call& call = *due;
      // The result may have arrived already, if it was this process that slept.
      if (call.link != nullptr && std::exchange(call.link->read_in_turn, timer_turn_) != timer_turn_) {
        call.link->worker().read_results(16);
        continue;
      }
      if (call.state == CallState::resting && !(call.due && *call.due <= now)) {
        end_rest(call);
        continue;
      }
      if (call.state == CallState::abandoned) {  // kill_after has passed
        timer_.remove(call);
        call.link->worker().kill_worker(call);
        continue;
      }
      std::string text;
      try {
        text = late_text(call, now);
        if (expired.size() == expired.capacity()) expired.reserve(2 * expired.size() + 8);
      } catch (const std::bad_alloc&) {  // the others do not wait for memory
        timer_.add(call, now + Channel::memory_pause);
        continue;
      }
      timer_.remove(call);
      auto keep_alive = call.shared_from_this();
      if (end_for_caller(call, CallEvent::expired)) expired.emplace_back(std::move(keep_alive), std::move(text));
    }
    send_queued();
    try {
      timer_.arm(sent_ahead_.next_look(), weak_from_this());
    } catch (const std::bad_alloc&) {  // the next call with a deadline tries again; these callers do not wait for that
    }
  }
  for (auto& [call, text] : expired) {
    // A statement of its own: the Error that is copied here is destroyed before the caller, perhaps on another thread,
    // gets its own. ThreadSanitizer does not see the reference count of the text that libstdc++ lets them share.
    auto failure = std::make_exception_ptr(Error(Errc::deadline_exceeded, text));
    Call::complete_with_error(std::move(call), std::move(failure));
  }
  run_completions(true);
}

/// Looks at the calls that were sent ahead in a while, if there is another worker for them, or may be one.
inline void Dispatcher::watch_calls_ahead() noexcept {
  if ((chooser_.size() < 2 && queue_watcher_ == nullptr) || !sent_ahead_.begin_looking()) return;
  try {
    timer_.arm_by(*sent_ahead_.next_look(), sent_ahead_.next_look(), weak_from_this());
  } catch (...) {  // no memory: the next call that is sent ahead tries again
    sent_ahead_.stop_looking();
  }
}

}}}  // namespace drover::v1::detail
