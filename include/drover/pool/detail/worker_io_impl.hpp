#pragma once

#include <asio/post.hpp>

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
    if (!ec) self->on_data_readable();
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
  if (!control_ || !io_ || foreign()) return;
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
  take_control_frames(16);
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
      throw Error(Errc::protocol_error, "process " + std::to_string(*received.sender) +
                                            " wrote to the control socket of worker '" + options_.name +
                                            "', which is process " + std::to_string(child_->pid()));
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

// Bounded: a worker that never stops sending would keep this thread for ever.
inline void WorkerCore::take_control_frames(int times) {
  if (!control_ || control_closed_) return;
  try {
    for (; times > 0; --times) {
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
  if (phase_ == Phase::starting && frame.header.type != FrameType::hello)
    throw Error(Errc::protocol_error, "the first message is no greeting of a drover worker");
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
      if (frame.header.id > last_status_request_) break;
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
  throw Error(Errc::protocol_error,
              "worker '" + options_.name + "' sent a message that does not belong on the control socket");
}

inline void WorkerCore::control_closed() {
  stop_.lost(Clock::now());
  const bool cut_off = control_->reader().mid_frame();
  if (phase_ == Phase::starting && !start_failure_ && !stop_.begun()) {
    if (cut_off) {
      fail_start(std::make_exception_ptr(
          Error(Errc::protocol_error,
                "worker '" + options_.name + "' closed its control socket in the middle of its greeting")));
      return;
    }
    // Mostly it has ended, and how is about to be known. If not, it will never be ready, and its time will be over; but
    // nobody should wait for that without a bound.
    if (!start_by_) reap_within(std::chrono::milliseconds(500));
  } else if (phase_ == Phase::ready) {
    expect_no_status();
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
  nonsense_ = true;
  fail_status_requests([failure] { return failure; });
  give_up(std::move(failure));
}

inline void WorkerCore::write_failed(std::error_code error) {
  // Mostly it is about to end, which is seen elsewhere; what it has still sent is read first.
  if (error == std::errc::broken_pipe || error == std::errc::connection_reset) return;
  give_up(std::make_exception_ptr(
      Error(Errc::connection_lost, "cannot write to worker '" + options_.name + "': " + error.message())));
}

/// Nobody is going to tell its status any more. Mostly it has ended, and how is about to be known: that goes first.
inline void WorkerCore::expect_no_status() {
  const auto at_home = dispatcher_->home()->lock();
  if (status_requests_.empty() || !io_ || dispatcher_->home()->down()) return;
  io_->timer.expires_after(std::chrono::milliseconds(500));
  io_->timer.async_wait([weak = weak_from_this()](std::error_code ec) {
    const auto core = ec ? nullptr : weak.lock();
    if (!core) return;
    const auto held = core->lock();
    core->fail_status_requests([core] { return core->no_control_socket(); });
  });
}

inline std::exception_ptr WorkerCore::no_control_socket() const {
  return std::make_exception_ptr(
      Error(Errc::connection_lost, "worker '" + options_.name + "' has closed its control socket"));
}

/// No more calls for it, and its end; those that it has fail with this.
inline void WorkerCore::give_up(std::exception_ptr failure) {
  if (phase_ != Phase::ready || failure_) return;
  failure_ = std::move(failure);
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

inline void WorkerCore::on_data_readable() {
  {
    const auto held = lock();
    watching_ = false;
    take_results(1);
  }
  dispatcher_->deliver(true);
}

// Bounded: a worker that answers as fast as it is asked would keep this thread for ever.
inline void WorkerCore::read_results() { take_results(16); }

/// Reads at most so many times, or until nothing is left; then the socket is watched again. The callers are told by
/// Dispatcher::deliver().
inline void WorkerCore::take_results(int times) {
  if (!lane_.has_data() || nonsense_) return;  // nothing counts that follows nonsense
  const Dispatcher::Batch batch(*dispatcher_);
  try {
    Channel::Received received{};
    do {
      received = lane_.data().receive();
      while (const auto frame = lane_.data().next()) take_result(*frame);
    } while (--times > 0 && received == Channel::Received::some);
    if (received == Channel::Received::closed) return data_closed();
    const auto at_home = dispatcher_->home()->lock();
    if (io_ && !dispatcher_->home()->down()) watch_data();
  } catch (...) {  // protocol_error; or no memory for what was sent, which then is lost
    nonsense_ = true;
    give_up(std::current_exception());
  }
}

inline void WorkerCore::take_result(const Frame& frame) {
  const std::shared_ptr<Call> call = lane_.answered(frame.header);
  Outcome outcome{nullptr, static_cast<ResultStatus>(frame.header.status), frame.body};
  if (outcome.status != ResultStatus::ok) {
    try {
      outcome.failure = refusal_of(outcome);
    } catch (const DecodeError& error) {
      throw Error(Errc::protocol_error, "worker '" + options_.name + "' sent a malformed answer: " + error.what());
    }
  }
  dispatcher_->answer(call, std::move(outcome), lane_.data().reader());
}

/// It has closed its data socket and will soon have ended, or else is of no use any more.
inline void WorkerCore::data_closed() {
  lane_.close();
  if (!stop_.begun()) reap_within(options_.shutdown_grace);
}

}  // namespace drover::inline v1::detail
