#pragma once

#include <algorithm>

#include <asio/error.hpp>
#include <asio/post.hpp>

#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline std::optional<std::exception_ptr> Dispatcher::refusal_of(const Call& call, const CallOptions& options) const {
  if (foreign()) return forked_copy();
  if (refusal_) return refusal_();
  const std::set<std::string>& tags = options.tags.value();
  if (!std::includes(tags_.begin(), tags_.end(), tags.begin(), tags.end())) {
    std::string wanted;
    for (const auto& tag : tags)
      if (!tags_.contains(tag)) wanted += (wanted.empty() ? "" : ", ") + tag;
    return std::make_exception_ptr(
        Error(Errc::no_such_worker, "CallOptions::tags asks for what WorkerOptions::tags does not have: " + wanted));
  }
  if (call.request.size() > max_message_size_)
    return std::make_exception_ptr(
        Error(Errc::message_too_large, "the arguments take " + std::to_string(call.request.size()) +
                                           " bytes, WorkerOptions::max_message_size allows " +
                                           std::to_string(max_message_size_)));
  if (options.deadline && *options.deadline <= Duration::zero())
    return std::make_exception_ptr(Error(
        Errc::deadline_exceeded, "the deadline of the call of '" + call.routine() + "' was over when it was made"));
  return std::nullopt;
}

inline Lane* Dispatcher::choose() {
  loads_.clear();
  for (const Lane* lane : lanes_) loads_.push_back(lane->load());
  const auto at = least_loaded(loads_, turn_);
  if (!at) return nullptr;
  turn_ = *at + 1;
  return lanes_[*at];
}

inline void Dispatcher::send(std::shared_ptr<Call> call, Lane& lane) {
  const bool idle = lane.in_flight() == 0 && !lane.shares_core();
  call->state = step(call->state, CallEvent::sent).next;
  lane.send(std::move(call));
  // A worker that has something to do gets what follows in few system calls, as long as others are sure to be
  // resumed: after the last of them all is flushed. An idle one does not wait, unless it has to wait for this core.
  const bool gathers = batch_ || (delivering == this && !ready_.empty());
  if (!gathers || idle || lane.gathered_enough())
    lane.flush();
  else
    lane.dirty = gathered_ = true;
}

inline void Dispatcher::flush_gathered() {
  if (!std::exchange(gathered_, false) || foreign()) return;
  for (Lane* lane : lanes_)
    if (std::exchange(lane->dirty, false)) lane->flush();
}

inline void Dispatcher::submit(const std::shared_ptr<Call>& call, const CallOptions& options) {
  const Deadline deadline = options.deadline ? deadline_after(Clock::now(), options.deadline) : Deadline{};
  const auto held = lock();
  ++calls_;
  call->kill_after = options.kill_after;
  auto refusal = refusal_of(*call, options);
  Lane* lane = nullptr;
  if (!refusal && queue_.empty()) lane = choose();
  if (!refusal && lane == nullptr && max_queued_ && queue_.size() >= *max_queued_)
    refusal = std::make_exception_ptr(
        Error(Errc::overloaded,
              std::to_string(queue_.size()) + " calls wait already, as many as PoolOptions::max_queued allows"));
  if (refusal) {
    call->state = step(call->state, CallEvent::refused).next;
    call->keep({std::move(*refusal), {}, {}});
    return;
  }
  try {
    if (deadline) time(*call, *deadline);
    if (lane != nullptr)
      send(call, *lane);
    else
      queue_.push(call);
  } catch (...) {  // out of memory
    deadlines_.remove(*call);
    throw;
  }
}

inline void Dispatcher::pump() {
  if (foreign()) return;
  while (!queue_.empty()) {
    Lane* const lane = choose();
    if (lane == nullptr) return;
    send(queue_.pop(), *lane);
  }
  look_if_unawaited();
}

inline bool Dispatcher::has_running() const noexcept {
  return std::any_of(lanes_.begin(), lanes_.end(), [](const Lane* lane) { return lane->has_running(); });
}

inline std::vector<std::shared_ptr<Call>> Dispatcher::drop_queue() {
  std::vector<std::shared_ptr<Call>> dropped;
  while (!queue_.empty()) {
    dropped.push_back(queue_.pop());
    Call& call = *dropped.back();
    call.state = step(call.state, CallEvent::refused).next;
    deadlines_.remove(call);
  }
  look_if_unawaited();
  return dropped;
}

inline bool Dispatcher::settle(Call& call, CallEvent event) {
  const CallStep todo = step(call.state, event);
  call.state = todo.next;
  deadlines_.remove(call);
  if (event == CallEvent::answered) ++served_;
  if (todo.next == CallState::ended) call.request.clear();
  if (todo.gives_place_back) {
    call.lane->give_back(call);
    pump();
  }
  look_if_unawaited();
  return todo.answers_caller;
}

inline void Dispatcher::answer(const std::shared_ptr<Call>& call, Outcome outcome, FrameReader& reader) {
  // First, for want of memory may end it; the call is then as it was.
  if (step(call->state, CallEvent::answered).answers_caller) call->keep(std::move(outcome), &reader);
  if (settle(*call, CallEvent::answered)) resume_later(call);
}

/// By deliver(), unless nobody awaits it yet.
inline void Dispatcher::resume_later(const std::shared_ptr<Call>& call) {
  if (call->receiver() != nullptr) (call->same_executor ? ready_ : elsewhere_).push(call);
}

inline void Dispatcher::take_back(Lane& lane, std::uint64_t last_begun) {
  auto calls = lane.calls();
  std::erase_if(calls, [&](const auto& call) { return call->id <= last_begun; });
  std::sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a->id > b->id; });
  for (const auto& call : calls) {
    const CallStep todo = step(call->state, CallEvent::returned);
    call->state = todo.next;
    if (todo.gives_place_back) lane.give_back(*call);
    if (!todo.enters_queue) {
      deadlines_.remove(*call);
    } else if (refusal_ && !keeps_queue_) {
      call->keep({refusal_(), {}, {}});
      call->state = step(call->state, CallEvent::refused).next;
      deadlines_.remove(*call);
      resume_later(call);
    } else {
      queue_.push_front(call);
    }
  }
  pump();
}

inline bool Dispatcher::deliver(bool inside) {
  struct Turn {
    explicit Turn(const Dispatcher& d) noexcept : before(std::exchange(delivering, &d)) {}
    ~Turn() { delivering = before; }
    const Dispatcher* const before;
  };
  std::optional<Turn> turn;
  for (;;) {
    std::shared_ptr<Call> call;
    {
      const auto held = lock();
      if (foreign()) return false;
      if (!elsewhere_.empty()) {
        call = elsewhere_.pop();
      } else if (ready_.empty()) {
        flush_gathered();
        return false;
      } else if (!inside) {
        stand_by();
        return true;
      } else {
        // What it does may take its time; who comes after it need not wait for that, nor what has been gathered.
        if (ready_.size() > 1 || gathered_) stand_by();
        call = ready_.pop();
      }
    }
    if (!call->same_executor) {
      call->post_receiver();
      continue;
    }
    if (!turn) turn.emplace(*this);
    if (call->claim_receiver()) Call::resume_with_kept_outcome(std::move(call));
  }
}

/// With the mutex held.
inline void Dispatcher::stand_by() {
  if (standing_by_) return;
  const auto at_home = home_->lock();
  if (!io_ || home_->down()) return;
  asio::post(io_->executor, [self = shared_from_this()] {
    {
      const auto held = self->lock();
      self->standing_by_ = false;
    }
    self->deliver(true);
  });
  standing_by_ = true;
}

inline void Dispatcher::finish(std::shared_ptr<Call> call, std::exception_ptr failure) {
  const auto dispatcher = call->dispatcher.lock();
  if (!dispatcher) return;
  {
    const auto held = dispatcher->lock();
    call->keep({std::move(failure), {}, {}});
    if (call->receiver() == nullptr) return;  // not awaited yet
  }
  call->post_receiver();
}

inline void Dispatcher::end(Call& call, CallEvent event, std::exception_ptr failure) {
  if (foreign()) return;
  std::shared_ptr<Call> keep_alive = call.shared_from_this();
  {
    const auto held = lock();
    if (!step_to_end(call, event)) return;
  }
  finish(std::move(keep_alive), std::move(failure));
}

/// With the mutex held. Is the caller to be told?
inline bool Dispatcher::step_to_end(Call& call, CallEvent event) {
  const CallStep todo = step(call.state, event);
  call.state = todo.next;
  if (todo.leaves_queue) queue_.remove(call);
  if (todo.leaves_queue || todo.cancels_in_worker) deadlines_.remove(call);
  if (todo.cancels_in_worker) {
    call.lane->owner().send_cancel(call.id);
    if (const auto kill_at = deadline_after(Clock::now(), call.kill_after); call.kill_after && kill_at)
      time(call, *kill_at);
  }
  look_if_unawaited();
  return todo.answers_caller;
}

inline bool Dispatcher::attach(const std::shared_ptr<Call>& call, const asio::any_io_executor& executor,
                               Emplacement& emplacement) {
  auto home = Home::of(asio::query(executor, asio::execution::context));
  bool ended = false;
  {
    const auto held = lock();
    const auto at_home = home->lock();
    if (home->down()) return false;
    call->home = home;
    call->same_executor = io_ && io_->executor == executor;
    emplacement.emplace(*call);
    home->move_in(call);
    ended = call->has_outcome;
  }
  if (ended) call->post_receiver();
  return true;
}

inline void Dispatcher::time(Call& call, Clock::time_point at) {
  deadlines_.add(call, at);
  if (!armed_at_ || at < *armed_at_) arm();
}

inline void Dispatcher::arm() {
  const auto at_home = home_->lock();
  if (!io_ || home_->down() || deadlines_.empty()) return;
  armed_at_ = deadlines_.next();
  io_->timer.expires_at(*armed_at_);
  io_->timer.async_wait([self = weak_from_this()](std::error_code ec) {
    if (ec) return;
    if (const auto dispatcher = self.lock()) dispatcher->on_timer();
  });
}

inline void Dispatcher::on_timer() {
  std::vector<std::pair<std::shared_ptr<Call>, std::string>> expired;
  {
    const auto held = lock();
    armed_at_.reset();
    const auto now = Clock::now();
    // The answers may be here already, when it was this process that slept.
    for (Lane* lane : lanes_) {
      const auto late = [&](const auto& call) { return call->deadline.queued() && call->deadline.at <= now; };
      const auto calls = lane->calls();
      if (std::any_of(calls.begin(), calls.end(), late)) lane->owner().read_results();
    }
    while (!deadlines_.empty() && deadlines_.first().deadline.at <= now) {
      Call& call = deadlines_.first();
      deadlines_.remove(call);
      if (call.state == CallState::abandoned) {  // kill_after is over
        call.lane->owner().kill_worker();
        continue;
      }
      auto keep_alive = call.shared_from_this();
      std::string text = "the call of '" + call.routine() + "' did not end in time; it ";
      text += call.lane != nullptr ? "ran in " + call.lane->owner().describe() : "waited for a free worker";
      if (step_to_end(call, CallEvent::expired)) expired.emplace_back(std::move(keep_alive), std::move(text));
    }
    arm();
  }
  for (auto& [call, text] : expired) {
    // A statement of its own: the Error that is copied here has gone before the caller, on another thread maybe, gets
    // its own. ThreadSanitizer does not see how libstdc++ counts who shares their text.
    auto failure = std::make_exception_ptr(Error(Errc::deadline_exceeded, text));
    finish(std::move(call), std::move(failure));
  }
  deliver(true);
}

inline void Dispatcher::evict() noexcept {
  CallQueue answered, others;
  {
    const auto held = lock();
    io_.reset();
    answered.swap(ready_);
    others.swap(elsewhere_);
  }
  for (CallQueue* queue : {&answered, &others})
    while (!queue->empty()) queue->pop()->post_receiver();  // nothing is posted to a context that is going
}

}}}  // namespace drover::v1::detail
