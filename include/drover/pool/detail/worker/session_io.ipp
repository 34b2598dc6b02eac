#pragma once

#include <asio/error.hpp>
#include <asio/post.hpp>

#include <drover/error.hpp>
#include <drover/os/credentials.hpp>
#include <drover/os/detail/lineage.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// The two sockets of a worker as the parent watches them, and what comes in on the control socket. Every error of a
/// system call either is retried or ends the worker in bounded time, so that nobody waits for an answer that cannot
/// come.
namespace drover { inline namespace v1 { namespace detail {

// ---- watching the sockets -------------------------------------------------------------------------------------------

inline void WorkerCore::watch_control() {
  if (std::exchange(watching_control_, true)) return;
  io_->control.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](std::error_code ec) {
    if (ec == asio::error::operation_aborted) return;
    if (ec) {
      const auto held = self->lock();
      return self->socket_failed("cannot watch the control socket of", ec);
    }
    self->on_control_readable();
  });
}

inline void WorkerCore::watch_data() {
  if (std::exchange(watching_data_, true)) return;
  io_->data.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](std::error_code ec) {
    if (ec == asio::error::operation_aborted) return;
    if (ec) {
      const auto held = self->lock();
      return self->socket_failed("cannot watch the data socket of", ec);
    }
    self->on_data_readable();
  });
}

inline void WorkerCore::await_writable() {
  if (!io_) return;
  io_->data.async_wait(asio::posix::stream_descriptor::wait_write, [self = shared_from_this()](std::error_code ec) {
    if (ec == asio::error::operation_aborted) return;
    const auto held = self->lock();
    if (ec) return self->socket_failed("cannot watch the data socket of", ec);
    if (self->lane_.has_data()) self->lane_.writable();
  });
}

/// The kernel had no memory to send or to receive: both are tried again after a while.
inline void WorkerCore::await_memory() {
  if (!io_ || std::exchange(awaiting_memory_, true)) return;
  io_->memory_timer.expires_after(Channel::memory_pause);
  io_->memory_timer.async_wait([weak = weak_from_this()](std::error_code ec) {
    const auto core = ec ? nullptr : weak.lock();
    if (core) core->on_memory();
  });
}

inline void WorkerCore::on_memory() {
  {
    const auto held = lock();
    awaiting_memory_ = false;
    if (!io_) return;
    if (control_) {
      flush_control();
      if (!watching_control_ && !control_closed_) take_control_frames(16);
      if (io_ && !control_closed_ && !awaiting_memory_) watch_control();
    }
    lane_.flush();
    if (!watching_data_) take_results(1);
  }
  dispatcher_->deliver(true);
}

/// A socket is of no use any more, for a reason that lies in this process.
inline void WorkerCore::socket_failed(const char* what, std::error_code error) {
  auto failure = std::make_exception_ptr(
      Error(Errc::connection_lost, std::string(what) + " worker '" + options_.name + "' (" + error.message() + ")"));
  if (phase_ == Phase::starting) return fail_start(std::move(failure));
  status_.fail([failure] { return failure; });
  give_up(std::move(failure));
}

// ---- what goes out on the control socket ----------------------------------------------------------------------------

inline void WorkerCore::queue_control(const FrameHeader& header, std::span<const std::byte> body) {
  if (!control_ || !io_ || foreign()) return;
  control_->queue(header, body);
  flush_control();
}

inline void WorkerCore::flush_control() {
  if (control_blocked_) return;
  // Should the program have closed it, its number may be another file's. (CALLs do not afford to ask each time.)
  if (!control_->is_intact()) return write_control_failed(std::make_error_code(std::errc::bad_file_descriptor));
  if (const std::error_code error = control_->flush()) return write_control_failed(error);
  if (control_->short_of_memory()) return await_memory();
  if (!control_->wants_write()) return;
  control_blocked_ = true;
  io_->control.async_wait(asio::posix::stream_descriptor::wait_write, [self = shared_from_this()](std::error_code ec) {
    if (ec == asio::error::operation_aborted) return;
    const auto held = self->lock();
    self->control_blocked_ = false;
    if (ec) return self->socket_failed("cannot watch the control socket of", ec);
    if (self->control_ && self->io_) self->flush_control();
  });
}

/// A frame was lost, a CANCEL perhaps, without which a slot would stay taken for ever. What the worker has sent can
/// still be read.
inline void WorkerCore::write_control_failed(std::error_code error) {
  stop_.lost(Clock::now());
  if (error != std::errc::broken_pipe && error != std::errc::connection_reset)
    return socket_failed("cannot write to the control socket of", error);
  if (phase_ != Phase::ready) return;
  lane_.close();
  expect_end(no_control_socket());
}

// ---- what comes in on the control socket ----------------------------------------------------------------------------

inline void WorkerCore::on_control_readable() {
  {
    const auto held = lock();
    watching_control_ = false;
    if (!control_ || control_closed_) return;
    take_control_frames(16);
    if (io_ && !control_closed_ && !awaiting_memory_) watch_control();
  }
  dispatcher_->deliver(true);
}

inline Channel::Received WorkerCore::receive_control() {
  if (phase_ != Phase::starting) return control_->receive();
  // The greeting has to come from the child, or from a process that the child has started: a wrapper may fork before it
  // executes the worker.
  try {
    const auto room = control_->reader().prepare();
    const auto received = receive_with_credentials(control_->fd(), room);
    if (received.descriptors)
      throw Error(Errc::protocol_error, "worker '" + options_.name + "' sent descriptors with its greeting");
    if (received.bytes == 0) return Channel::Received::closed;
    const pid_t sender = received.sender.value_or(0);
    if (sender != child_->pid() && !descends_from(sender, child_->pid()))
      throw Error(Errc::protocol_error,
                  "process " + std::to_string(sender) + " wrote to the control socket of worker '" + options_.name +
                      "', but does not descend from its process " + std::to_string(child_->pid()));
    greeted_by_ = sender;
    control_->reader().commit(received.bytes);
    return Channel::Received::some;
  } catch (const Error&) {
    throw;
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again) return Channel::Received::nothing_yet;
    if (error.code() == std::errc::connection_reset) return Channel::Received::closed;
    if (error.code() != std::errc::no_buffer_space && error.code() != std::errc::not_enough_memory) throw;
    await_memory();
    return Channel::Received::nothing_yet;
  }
}

// Bounded: a worker that never stops sending would keep this thread for ever.
inline void WorkerCore::take_control_frames(int times) {
  if (!control_ || control_closed_) return;
  try {
    for (; times > 0; --times) {
      const auto received = receive_control();
      while (const auto frame = control_->next()) control_frame(*frame);
      if (received == Channel::Received::nothing_yet) {
        if (control_->short_of_memory()) await_memory();
        return;
      }
      if (received == Channel::Received::closed) {
        control_closed_ = true;
        control_closed();
        return;
      }
    }
  } catch (const Error&) {
    control_closed_ = true;
    protocol_failure(std::current_exception());
  } catch (const std::system_error& error) {
    control_closed_ = true;
    socket_failed("cannot read from the control socket of", error.code());
  } catch (...) {  // no memory for what was sent, which then is lost
    control_closed_ = true;
    protocol_failure(std::current_exception());
  }
}

inline void WorkerCore::control_frame(const Frame& frame) {
  if (!greeted_ && frame.header.type != FrameType::hello)
    throw Error(Errc::protocol_error, "the first message is no greeting of a drover worker");
  if (greeted_ && phase_ == Phase::starting && frame.header.type != FrameType::hello)
    return;  // it was asked to end before it was ready
  switch (frame.header.type) {
    case FrameType::hello:
      if (std::exchange(greeted_, true))
        throw Error(Errc::protocol_error, "worker '" + options_.name + "' greeted twice");
      return hello(frame);
    case FrameType::stop_reply: {
      const auto body = decode_body<StopReply>(frame.body);
      if (!body) break;
      stop_.acknowledged(Clock::now());
      if (stop_.begun() && stop_.end_by()) reap_within(*stop_.end_by() - Clock::now());
      expected_end_ = true;
      return;
    }
    case FrameType::status_reply: {
      const auto body = decode_body<StatusReply>(frame.body);
      if (!body) break;
      const WorkerStatus status{.in_flight = static_cast<std::size_t>(body->in_flight),
                                .idle_for = std::chrono::nanoseconds(std::max<std::int64_t>(body->idle_ns, 0)),
                                .served = body->served};
      if (!status_.answer(frame.header.id, status)) break;
      if (status_.wants_another()) send_status_request();
      return;
    }
    case FrameType::draining:
      if (!frame.body.empty()) break;
      drains_ = true;
      lane_.close();
      if (frame.header.id != nothing_begun_yet) dispatcher_->take_back(lane_, frame.header.id);
      return;
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
    // Usually it has exited, which the reaper is about to report. If not, it can never get ready, and its start will
    // time out; without a bound the start needs one now.
    if (!start_by_) reap_within(std::chrono::milliseconds(500));
  } else if (phase_ == Phase::ready) {
    // A worker without its control socket behaves as if its parent had died, and exits.
    if (!stop_.begun()) {
      lane_.close();
      reap_within(options_.shutdown_grace);
    } else if (stop_.end_by()) {
      reap_within(*stop_.end_by() - Clock::now());
    }
    if (!status_.empty()) expect_status_by_exit();
  }
}

inline void WorkerCore::protocol_failure(std::exception_ptr failure) {
  if (phase_ == Phase::starting) return fail_start(std::move(failure));
  nonsense_ = true;
  status_.fail([failure] { return failure; });
  give_up(std::move(failure));
}

/// The data socket does not take calls any more.
inline void WorkerCore::write_failed(std::error_code error) {
  if (error != std::errc::broken_pipe && error != std::errc::connection_reset)
    return socket_failed("cannot write to the data socket of", error);
  // Usually the worker has exited, which the reaper is about to report; what it has sent is read first. A worker that
  // lives on and does not read would let its calls wait for ever.
  lane_.close();
  expect_end(std::make_exception_ptr(
      Error(Errc::connection_lost, "worker '" + options_.name + "' does not read its calls any more")));
}

/// The worker should exit now. If it has not within 500 ms, it is given up, and its calls fail with `otherwise`.
inline void WorkerCore::expect_end(std::exception_ptr otherwise) {
  const auto at_home = dispatcher_->home()->lock();
  if (!io_ || dispatcher_->home()->down() || end_expected_) return;
  end_expected_ = true;
  io_->end_timer.expires_after(end_patience);
  io_->end_timer.async_wait([weak = weak_from_this(), failure = std::move(otherwise)](std::error_code ec) {
    const auto core = ec ? nullptr : weak.lock();
    if (!core) return;
    const auto held = core->lock();
    core->status_.fail([&] { return failure; });
    core->give_up(failure);
  });
}

/// No STATUS_REPLY can arrive any more. The exit status explains more, so it gets 500 ms to arrive first.
inline void WorkerCore::expect_status_by_exit() {
  const auto at_home = dispatcher_->home()->lock();
  if (!io_ || dispatcher_->home()->down()) return;
  io_->start_timer.expires_after(end_patience);  // the start is over
  io_->start_timer.async_wait([weak = weak_from_this()](std::error_code ec) {
    const auto core = ec ? nullptr : weak.lock();
    if (!core) return;
    const auto held = core->lock();
    core->status_.fail([&core] { return core->no_control_socket(); });
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

}}}  // namespace drover::v1::detail
