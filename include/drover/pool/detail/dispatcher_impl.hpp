#pragma once

#include <algorithm>

#include <asio/bind_executor.hpp>
#include <asio/error.hpp>

#include <drover/pool/detail/dispatcher.hpp>

namespace drover::inline v1::detail {

inline std::optional<std::exception_ptr> Dispatcher::refusal_of(const Call& call, const CallOptions& options) const {
  if (refusal_) return refusal_();
  if (!std::includes(tags_.begin(), tags_.end(), options.tags.begin(), options.tags.end())) {
    std::string wanted;
    for (const auto& tag : options.tags)
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
    return std::make_exception_ptr(Error(Errc::deadline_exceeded, "the call's deadline was over when it was made"));
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
  const bool idle = lane.in_flight() == 0;
  call->state = step(call->state, CallEvent::sent).next;
  lane.send(std::move(call));
  // In a batch a worker that has something to do gets the rest in few system calls; an idle one does not wait.
  if (gathering != this || idle || lane.gathered_enough())
    lane.flush();
  else
    lane.dirty = true;
}

inline void Dispatcher::close_batch(const Dispatcher* before) {
  gathering = before;
  if (before == this) return;
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
  while (!queue_.empty()) {
    Lane* const lane = choose();
    if (lane == nullptr) return;
    send(queue_.pop(), *lane);
  }
}

inline std::vector<std::shared_ptr<Call>> Dispatcher::drop_queue() {
  std::vector<std::shared_ptr<Call>> dropped;
  while (!queue_.empty()) {
    dropped.push_back(queue_.pop());
    Call& call = *dropped.back();
    call.state = step(call.state, CallEvent::refused).next;
    deadlines_.remove(call);
  }
  return dropped;
}

inline bool Dispatcher::settle(Call& call, CallEvent event) {
  const CallStep todo = step(call.state, event);
  call.state = todo.next;
  deadlines_.remove(call);
  if (event == CallEvent::answered) ++served_;
  if (todo.gives_place_back) {
    call.lane->give_back(call);
    pump();
  }
  return todo.answers_caller;
}

inline void Dispatcher::finish(std::shared_ptr<Call> call, Outcome outcome, bool inside) {
  const auto dispatcher = call->dispatcher.lock();
  if (!dispatcher) return;
  {
    const auto held = dispatcher->lock();
    if (call->receiver() == nullptr) {  // not awaited yet
      call->keep(std::move(outcome));
      return;
    }
  }
  if (inside && call->same_executor) {
    if (call->claim_receiver()) {
      Receiver* const receiver = call->receiver();
      receiver->resume(std::move(call), outcome);
    }
    return;
  }
  call->keep(std::move(outcome));
  call->post_receiver();
}

inline void Dispatcher::end(Call& call, CallEvent event, std::exception_ptr failure) {
  std::shared_ptr<Call> keep_alive = call.shared_from_this();
  {
    const auto held = lock();
    const CallStep todo = step(call.state, event);
    call.state = todo.next;
    if (todo.leaves_queue) queue_.remove(call);
    if (todo.leaves_queue || todo.cancels_in_worker) deadlines_.remove(call);
    if (todo.cancels_in_worker) {
      call.lane->owner().send_cancel(call.id);
      if (const auto kill_at = deadline_after(Clock::now(), call.kill_after); call.kill_after && kill_at)
        time(call, *kill_at);
    }
    if (!todo.answers_caller) return;
  }
  finish(std::move(keep_alive), {std::move(failure), {}, {}}, false);
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
  const auto now = Clock::now();
  // The answers may be here already, when it was this process that slept.
  std::vector<std::shared_ptr<Lane::Owner>> to_read;
  {
    const auto held = lock();
    armed_at_.reset();
    for (Lane* lane : lanes_)
      for (const auto& call : lane->calls())
        if (call->deadline.queued() && call->deadline.at <= now) {
          to_read.push_back(lane->owner().share());
          break;
        }
  }
  try {
    for (const auto& worker : to_read) worker->read_results();
  } catch (...) {  // a completion handler of the user's; the deadlines are looked after all the same
    const auto held = lock();
    arm();
    throw;
  }
  for (;;) {
    std::shared_ptr<Call> call;
    {
      const auto held = lock();
      if (deadlines_.empty() || deadlines_.first().deadline.at > now) {
        arm();
        return;
      }
      call = deadlines_.first().shared_from_this();
      deadlines_.remove(*call);
      if (call->state == CallState::abandoned) {  // kill_after is over
        call->lane->owner().kill_worker();
        continue;
      }
    }
    auto failure = std::make_exception_ptr(Error(Errc::deadline_exceeded, "the call did not end in time"));
    end(*call, CallEvent::expired, std::move(failure));
  }
}

}  // namespace drover::inline v1::detail
