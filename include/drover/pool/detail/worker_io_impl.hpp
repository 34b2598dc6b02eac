#pragma once

#include <asio/bind_executor.hpp>
#include <asio/post.hpp>
#include <limits>

#include <drover/error.hpp>
#include <drover/os/credentials.hpp>
#include <drover/pool/detail/worker_core.hpp>

namespace drover::inline v1::detail {

// ---- watching the sockets -------------------------------------------------------------------------------------------

inline void WorkerCore::watch_control() {
  io_->control.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](std::error_code ec) {
    if (!ec) self->on_control_readable();
  });
}

inline void WorkerCore::watch_data() {
  if (std::exchange(watching_, true)) return;
  io_->data.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](std::error_code ec) {
    if (ec) return;
    {
      const auto held = self->lock();
      self->watching_ = false;
    }
    self->read_data(1);
  });
}

inline void WorkerCore::await_writable() {
  if (!io_) return;
  io_->data.async_wait(asio::posix::stream_descriptor::wait_write, [self = shared_from_this()](std::error_code ec) {
    if (ec) return;
    const auto held = self->lock();
    if (self->lane_.has_data()) self->lane_.writable();
  });
}

// ---- control --------------------------------------------------------------------------------------------------------

inline void WorkerCore::queue_control(const FrameHeader& header, std::span<const std::byte> body) {
  if (!control_ || !io_) return;
  control_->queue(header, body);
  flush_control();
}

inline void WorkerCore::flush_control() {
  if (control_blocked_) return;
  if (control_->flush()) {
    stop_.lost(Clock::now());
    return;
  }
  if (!control_->wants_write()) return;
  control_blocked_ = true;
  io_->control.async_wait(asio::posix::stream_descriptor::wait_write, [self = shared_from_this()](std::error_code ec) {
    if (ec) return;
    const auto held = self->lock();
    self->control_blocked_ = false;
    if (self->control_ && self->io_) self->flush_control();
  });
}

inline void WorkerCore::on_control_readable() {
  const auto held = lock();
  if (!control_ || control_closed_) return;
  take_control_frames();
  if (io_ && !control_closed_) watch_control();
}

inline Channel::Received WorkerCore::receive_control() {
  if (phase_ != Phase::starting) return control_->receive();
  // The greeting has to come from the child itself.
  try {
    const auto room = control_->reader().prepare();
    const auto received = receive_with_credentials(control_->fd(), room);
    if (received.bytes == 0) return Channel::Received::closed;
    if (received.sender && *received.sender != child_->pid())
      throw Error(Errc::protocol_error, "process " + std::to_string(*received.sender) + " wrote to the control socket of worker '" +
                                            options_.name + "', which is process " + std::to_string(child_->pid()));
    control_->reader().commit(received.bytes);
    return Channel::Received::some;
  } catch (const Error&) {
    throw;
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again) return Channel::Received::nothing_yet;
    if (error.code() == std::errc::connection_reset) return Channel::Received::closed;
    throw;
  }
}

inline void WorkerCore::take_control_frames() {
  if (!control_ || control_closed_) return;
  try {
    for (;;) {
      const auto received = receive_control();
      while (const auto frame = control_->next()) control_frame(*frame);
      if (received == Channel::Received::nothing_yet) return;
      if (received == Channel::Received::closed) {
        control_closed_ = true;
        control_closed();
        return;
      }
    }
  } catch (const std::system_error&) {  // Error among them
    control_closed_ = true;
    protocol_failure(std::current_exception());
  }
}

inline void WorkerCore::control_frame(const Frame& frame) {
  switch (frame.header.type) {
    case FrameType::hello:
      if (metadata_) throw Error(Errc::protocol_error, "worker '" + options_.name + "' greeted twice");
      return hello(frame);
    case FrameType::stop_reply: {
      const auto body = decode_body<StopReply>(frame.body);
      if (!body) break;
      report_.drained = static_cast<std::size_t>(body->drained);
      report_.cancelled = static_cast<std::size_t>(body->cancelled);
      stop_.acknowledged(Clock::now());
      if (stop_.begun() && stop_.end_by()) reap_within(*stop_.end_by() - Clock::now());
      expected_end_ = true;
      return;
    }
    case FrameType::status_reply: {
      const auto body = decode_body<StatusReply>(frame.body);
      if (!body) break;
      const auto found = status_requests_.find(frame.header.id);
      if (found == status_requests_.end()) return;  // nobody waits any more
      found->second->status = WorkerStatus{.in_flight = static_cast<std::size_t>(body->in_flight),
                                           .idle_for = std::chrono::nanoseconds(body->idle_ns),
                                           .served = body->served};
      found->second->answered->set();
      status_requests_.erase(found);
      return;
    }
    default: break;
  }
  throw Error(Errc::protocol_error, "worker '" + options_.name + "' sent a message that does not belong on the control socket");
}

inline void WorkerCore::control_closed() {
  stop_.lost(Clock::now());
  const bool cut_off = control_->reader().mid_frame();
  if (phase_ == Phase::starting && !start_failure_ && !stop_.begun()) {
    if (cut_off) {
      fail_start(std::make_exception_ptr(
          Error(Errc::protocol_error, "worker '" + options_.name + "' closed its control socket in the middle of its greeting")));
      return;
    }
    // Mostly it has ended, and how is about to be known. If not, it will never be ready, and its time will be over; but
    // nobody should wait for that without a bound.
    if (!start_bounded_) reap_within(std::chrono::milliseconds(500));
  } else if (phase_ == Phase::ready) {
    // Without its control socket it is as good as orphaned, and knows it.
    if (!stop_.begun()) {
      lane_.close();
      reap_within(options_.shutdown_grace);
    } else if (stop_.end_by()) {
      reap_within(*stop_.end_by() - Clock::now());
    }
  }
}

inline void WorkerCore::protocol_failure(std::exception_ptr failure) {
  if (phase_ == Phase::starting) return fail_start(std::move(failure));
  if (phase_ != Phase::ready || protocol_failure_) return;
  protocol_failure_ = std::move(failure);
  lane_.close();
  reap_within(Duration::zero());
}

inline void WorkerCore::fail_status_requests(const Cause& cause) {
  for (auto& [id, request] : status_requests_) {
    request->failure = cause();
    request->answered->set();
  }
  status_requests_.clear();
}

// ---- results --------------------------------------------------------------------------------------------------------

// Bounded: a worker that answers as fast as it is asked would keep this thread for ever.
inline void WorkerCore::read_results() { read_data(16); }

/// Reads at most so many times, or until nothing is left, and delivers; then watches the socket again. False if somebody
/// else is at it, on another thread or further up this one's stack, who then does the rest.
inline bool WorkerCore::read_data(int times) {
  auto held = lock();
  if (reading_) return false;
  if (!lane_.has_data() || protocol_failure_) return true;  // nothing counts that follows nonsense
  reading_ = true;
  const Dispatcher* const batch_before = dispatcher_->open_batch();

  // A completion handler of the user's may throw; what was begun here goes on all the same.
  struct Finish {
    WorkerCore& core;
    std::unique_lock<std::mutex>& lock;
    const Dispatcher* batch_before;
    bool left_by_exception = true;
    bool open = false;
    ~Finish() {
      if (!lock.owns_lock()) lock.lock();
      core.reading_ = false;
      core.dispatcher_->close_batch(batch_before);
      if (core.evicted_) core.lane_.disconnect();
      const auto at_home = core.dispatcher_->home()->lock();
      if (!core.io_ || core.dispatcher_->home()->down()) return;
      const auto self = core.shared_from_this();
      if (std::exchange(core.end_waits_, false))
        asio::post(core.io_->executor, [self] { self->on_ended(); });
      else if (left_by_exception)
        asio::post(core.io_->executor, [self] { self->read_data(1); });
      else if (open)
        core.watch_data();
    }
  } finish{*this, held, batch_before};

  Channel::Received received{};
  try {
    do {
      received = lane_.data().receive();
      while (const auto frame = lane_.data().next()) {
        auto call = lane_.answered(frame->header);
        if (!dispatcher_->settle(*call, CallEvent::answered)) continue;
        held.unlock();
        Dispatcher::finish(std::move(call), {nullptr, static_cast<ResultStatus>(frame->header.status), frame->body}, true);
        held.lock();
        if (evicted_) break;  // meanwhile; its calls have been ended
      }
    } while (--times > 0 && received == Channel::Received::some && !evicted_);
    finish.open = received != Channel::Received::closed;
    if (!finish.open && !evicted_) data_closed();
  } catch (const Error& error) {
    if (error.code() != make_error_code(Errc::protocol_error)) throw;
    if (!held.owns_lock()) throw;
    protocol_failure(std::current_exception());
  }
  finish.left_by_exception = false;
  return true;
}

/// It has closed its data socket and will soon have ended, or else is of no use any more.
inline void WorkerCore::data_closed() {
  lane_.close();
  if (!stop_.begun()) reap_within(options_.shutdown_grace);
}

// ---- the end --------------------------------------------------------------------------------------------------------

inline void WorkerCore::on_child_event(const ChildEvent& event) {
  if (event.kind == ChildEvent::Kind::ended) {
    // On the reaper's thread, which must not run what follows.
    to_executor_->post([self = shared_from_this()] { self->on_ended(); });
    return;
  }
  Event told;
  told.kind = event.kind == ChildEvent::Kind::terminate_sent ? Event::Kind::terminate_sent : Event::Kind::kill_sent;
  told.at = event.at;
  emit(std::move(told));
}

inline Cause WorkerCore::end_cause() const {
  return [what = "worker '" + options_.name + "' (" + std::to_string(child_->pid()) + ") ended",
          status = child_->exit_status()] { return std::make_exception_ptr(Error(Errc::worker_exited, what, status)); };
}

inline void WorkerCore::on_ended() {
  {
    const auto held = lock();
    if (phase_ == Phase::ended) return;
    // Somebody is still starting it, or at the data socket, on another thread or further up this one's stack; he calls
    // again.
    if (!child_ || reading_) {
      end_waits_ = true;
      return;
    }
    take_control_frames();
  }
  try {
    // What it has answered counts, to the last byte.
    while (!read_data(std::numeric_limits<int>::max())) {
      const auto held = lock();
      if (!reading_) continue;
      end_waits_ = true;
      return;
    }
  } catch (...) {  // a completion handler of the user's; there is more to be done
    to_executor_->post([self = shared_from_this()] { self->on_ended(); });
    throw;
  }
  std::vector<std::shared_ptr<Call>> calls;
  Cause cause;
  {
    const auto held = lock();
    if (phase_ == Phase::ended) return;
    if (reading_) {
      end_waits_ = true;
      return;
    }
    cause = end_cause();
    const ReapReport reaped = child_->report();
    report_.exit = reaped.exit;
    report_.terminated = reaped.terminated;
    report_.killed = reaped.killed;
    if (phase_ == Phase::starting && !start_failure_) {
      if (stop_.begun())
        start_failure_ = std::make_exception_ptr(std::system_error(std::error_code(asio::error::operation_aborted)));
      else if (reaped.terminated)
        start_failure_ = std::make_exception_ptr(
            Error(Errc::protocol_error, "worker '" + options_.name + "' closed its control socket before it was ready"));
      else
        start_failure_ = std::make_exception_ptr(
            Error(Errc::start_failed, "worker '" + options_.name + "' (" + options_.command.program.string() +
                                          ") ended before it was ready; does its main() reach drover::serve()?", reaped.exit));
    }
    phase_ = Phase::ended;
    if (stop_.begun()) {
      report_.rpc = died_unasked_ ? make_error_code(Errc::worker_exited) : stop_.rpc(reaped.terminated);
      report_.elapsed = Clock::now() - stop_.begun_at();
    }
    lane_.close();  // first, or what waits would be handed to it as its calls end
    dispatcher_->remove_lane(lane_);
    for (const auto& call : lane_.calls())
      if (dispatcher_->settle(*call, CallEvent::worker_ended)) calls.push_back(call);
    if (mode_.solo && !stop_.begun()) dispatcher_->refuse(cause);
    fail_status_requests(cause);
    if (protocol_failure_) cause = [failure = protocol_failure_] { return failure; };
    Event told;
    told.kind = Event::Kind::exited;
    told.exit = reaped.exit;
    told.expected = expected_end_ || (stop_.begun() && !died_unasked_);
    emit(told);
    told.kind = Event::Kind::reaped;
    emit(std::move(told));
    if (mode_.solo) {
      auto waiting = dispatcher_->drop_queue();
      calls.insert(calls.end(), waiting.begin(), waiting.end());
    }
    dispatcher_->disarm();
    release_io();
  }
  Dispatcher::fail(std::move(calls), cause);
  started_->set();
  finished_->set();
  if (const auto supervision = supervision_.lock()) supervision->worker_ended(*this);
}

inline void WorkerCore::release_io() noexcept {
  if (foreign()) (void)io_.release();  // a forked copy shares the original's epoll: not to be touched
  io_.reset();
  if (!reading_) lane_.disconnect();  // or else whoever is at its buffer does it
  data_socket_.reset();
  control_.reset();
}

inline void WorkerCore::evict() noexcept {
  drop([what = "the io_context of worker '" + options_.name + "' is gone"] {
    return std::make_exception_ptr(Error(Errc::connection_lost, what));
  });
}

/// The process is the reaper's from now on, and whoever waits for something else is told why he waits in vain.
inline void WorkerCore::drop(const Cause& gone) noexcept {
  std::vector<std::shared_ptr<Call>> calls;
  {
    const auto held = lock();
    evicted_ = true;
    executor_before_start_ = {};
    release_io();
    if (child_) child_->abandon();
    lane_.close();
    dispatcher_->remove_lane(lane_);
    for (const auto& call : lane_.calls())
      if (dispatcher_->settle(*call, CallEvent::worker_ended)) calls.push_back(call);
    if (mode_.solo) {
      auto waiting = dispatcher_->drop_queue();
      calls.insert(calls.end(), waiting.begin(), waiting.end());
      dispatcher_->refuse(gone);
    }
    if (phase_ == Phase::starting && !start_failure_) start_failure_ = gone();
    fail_status_requests(gone);
  }
  Dispatcher::fail(std::move(calls), gone);
  started_->set();
  finished_->set();
}

}  // namespace drover::inline v1::detail
