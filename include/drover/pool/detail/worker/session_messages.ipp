#pragma once

#include <algorithm>
#include <utility>

#include <drover/error.hpp>
#include <drover/os/detail/lineage.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// Handles the messages of a worker, and errors on its sockets. Every error of a system call either is retried or
/// ends the worker in bounded time, so that nobody waits for an answer that cannot come.
namespace drover { inline namespace v1 { namespace detail {

// ---- the control socket ---------------------------------------------------------------------------------------------

inline Channel::Received WorkerSession::receive_control(Channel& channel, bool& short_of_memory) {
  if (!lifecycle_.was_ready()) return handshake_.receive(channel, options_.name, child_->pid(), short_of_memory);
  const auto received = channel.receive();
  short_of_memory = channel.short_of_memory();
  return received;
}

inline void WorkerSession::control_frame(const Frame& frame) {
  const bool is_hello = frame.header.type == FrameType::hello;
  if (!greeted_ && !is_hello) Handshake::check_version({}, options_.name);  // throws
  if (greeted_ && !lifecycle_.was_ready() && !is_hello) return;             // it was asked to end before it was ready
  switch (frame.header.type) {
    case FrameType::hello:
      if (std::exchange(greeted_, true))
        throw Error(Errc::protocol_error, "worker '" + options_.name + "' sent HELLO twice");
      return hello(frame);
    case FrameType::stop_reply:
      if (!decode_body<StopReply>(frame.body) || !lifecycle_.stop_request().begun()) break;
      return carry_out(lifecycle_.acknowledged(Clock::now()));
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
      carry_out(lifecycle_.draining());
      if (frame.header.id != nothing_begun_yet) dispatcher_->take_back(data_, frame.header.id);
      if (const auto supervision = supervision_.lock()) supervision->worker_leaving(*this);
      return;
    default: break;
  }
  throw Error(Errc::protocol_error,
              "worker '" + options_.name + "' sent a message that does not belong on the control socket");
}

inline void WorkerSession::control_closed(bool mid_frame) {
  if (mid_frame && lifecycle_.awaits_hello())
    return fail_start(std::make_exception_ptr(Error(
        Errc::protocol_error, "worker '" + options_.name + "' closed its control socket in the middle of its HELLO")));
  carry_out(lifecycle_.control_closed(Clock::now()));
  if (!lifecycle_.serves() || status_.empty()) return;
  // No STATUS_REPLY can arrive any more. The exit status explains more, so it gets 500 ms to arrive first.
  const auto context = lock_context();
  if (!context) return;
  io_->start_timer.expires_after(exit_patience);  // the start is over
  io_->start_timer.async_wait([weak = weak_from_this()](std::error_code ec) {
    const auto session = ec ? nullptr : weak.lock();
    if (!session) return;
    const auto held = session->lock();
    session->status_.fail([&session] { return session->no_control_socket(); });
  });
}

inline void WorkerSession::replies_lost(const std::exception_ptr& failure) {
  if (lifecycle_.was_ready()) status_.fail([failure] { return failure; });
}

/// A frame was lost, a CANCEL perhaps, without which a slot would stay taken for ever.
inline void WorkerSession::control_broken() {
  carry_out(lifecycle_.control_broken(Clock::now()));
  if (lifecycle_.serves()) expect_exit(no_control_socket());
}

inline std::exception_ptr WorkerSession::no_control_socket() const {
  return std::make_exception_ptr(
      Error(Errc::connection_lost, "worker '" + options_.name + "' has closed its control socket"));
}

// ---- the data socket ------------------------------------------------------------------------------------------------

inline void WorkerSession::read_results(int times) {
  const Dispatcher::Batch batch(*dispatcher_);
  data_.read(times);
}

inline void WorkerSession::result(const std::shared_ptr<Call>& call, const Frame& frame) {
  Outcome outcome{nullptr, static_cast<ResultStatus>(frame.header.status), frame.body};
  const bool cancelled = outcome.status == ResultStatus::cancelled;
  if (outcome.status != ResultStatus::ok) {
    try {
      outcome.failure = refusal_of(outcome);
    } catch (const DecodeError& error) {
      throw Error(Errc::protocol_error, "worker '" + options_.name + "' sent a malformed result: " + error.what());
    }
  }
  if (lifecycle_.stop_request().begun())
    ++(cancelled ? report_.cancelled : report_.drained);
  else if (cancelled && call->state == CallState::running)
    return;  // nobody on this side has cancelled it: the worker ends, and its exit status is what the caller needs
  if (!std::exchange(answered_a_call_, true))
    if (const auto supervision = supervision_.lock()) supervision->worker_answered(*this);
  dispatcher_->record_result(call, std::move(outcome), data_.reader());
}

inline void WorkerSession::data_closed() { carry_out(lifecycle_.data_closed(Clock::now())); }

inline void WorkerSession::data_broken() {
  carry_out(lifecycle_.data_broken());
  expect_exit(std::make_exception_ptr(
      Error(Errc::connection_lost, "worker '" + options_.name + "' does not read its calls any more")));
}

inline void WorkerSession::send_cancel(std::uint64_t call) {
  FrameHeader header;
  header.type = FrameType::cancel;
  header.id = call;
  if (!foreign()) control_.send(header);
}

// ---- either socket --------------------------------------------------------------------------------------------------

inline std::unique_lock<std::mutex> WorkerSession::lock_context() const {
  auto context = dispatcher_->registry()->lock();
  if (!io_ || dispatcher_->registry()->closed()) context.unlock();
  return context;
}

inline void WorkerSession::run_completions() { dispatcher_->run_completions(true); }

inline void WorkerSession::socket_failed(const char* what, std::error_code error) {
  auto failure = std::make_exception_ptr(
      Error(Errc::connection_lost, std::string(what) + " worker '" + options_.name + "' (" + error.message() + ")"));
  if (!lifecycle_.was_ready()) return fail_start(std::move(failure));
  data_.distrust();
  status_.fail([failure] { return failure; });
  give_up(std::move(failure));
}

inline void WorkerSession::peer_failed(std::exception_ptr failure) {
  if (!lifecycle_.was_ready()) return fail_start(std::move(failure));
  data_.distrust();
  give_up(std::move(failure));
}

/// Terminates a worker that is of no use any more. Its calls fail with `failure`.
inline void WorkerSession::give_up(std::exception_ptr failure) {
  if (!lifecycle_.serves() || failure_) return;
  failure_ = std::move(failure);
  carry_out(lifecycle_.failed(Clock::now()));
}

/// The worker has usually just exited, and its status is about to arrive. If it has not within 500 ms, it is given up.
inline void WorkerSession::expect_exit(std::exception_ptr otherwise) {
  const auto context = lock_context();
  if (!context || std::exchange(exit_expected_, true)) return;
  io_->exit_timer.expires_after(exit_patience);
  io_->exit_timer.async_wait([weak = weak_from_this(), failure = std::move(otherwise)](std::error_code ec) {
    const auto session = ec ? nullptr : weak.lock();
    if (!session) return;
    const auto held = session->lock();
    session->status_.fail([&] { return failure; });
    session->give_up(failure);
  });
}

inline std::string WorkerSession::describe() const {
  std::string text = "worker '" + options_.name + "'";
  if (child_) text += " (" + std::to_string(child_->pid()) + ")";
  return text;
}

/// For CallOptions::kill_after.
inline void WorkerSession::kill_worker() {
  if (!child_ || !child_->running()) return;
  try {
    child_->kill_leader();
    // Behind a wrapper the worker is another process.
    if (const auto worker = handshake_.sender(); worker && *worker != child_->pid())
      kill_descendant(*worker, child_->pid());
  } catch (const std::system_error&) {  // refused, as by a set-user-ID program: it keeps its slot and works on
    return;
  }
  carry_out(lifecycle_.killed_for_call());
  emit(Event::Kind::kill_sent);
}

}}}  // namespace drover::v1::detail
