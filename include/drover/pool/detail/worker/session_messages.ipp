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

inline bool WorkerSession::stop_acknowledged() {
  if (!lifecycle_.stop_request().begun()) return false;
  carry_out(lifecycle_.acknowledged(Clock::now()));
  return true;
}

inline void WorkerSession::draining(std::uint64_t last_begun) {
  carry_out(lifecycle_.draining());
  if (last_begun != nothing_begun_yet) dispatcher_->take_back(data_, last_begun);
  if (const auto supervision = supervision_.lock()) supervision->worker_leaving(*this);
}

inline void WorkerSession::control_closed(bool mid_frame) {
  if (mid_frame && lifecycle_.awaits_hello())
    return fail_start(std::make_exception_ptr(
        errors_.error(Errc::protocol_error, "closed its control socket in the middle of its HELLO")));
  carry_out(lifecycle_.control_closed(Clock::now()));
  if (!lifecycle_.serves() || !control_.owes_status()) return;
  // No STATUS_REPLY can arrive any more. The exit status explains more, so it gets 500 ms to arrive first.
  const auto context = lock_context();
  if (!context) return;
  after(io_->start_timer, Clock::now() + exit_patience, [](WorkerSession& session) {  // the start is over
    session.control_.fail_status([&session] { return std::make_exception_ptr(session.errors_.no_control_socket()); });
  });
}

/// A frame was lost, a CANCEL perhaps, without which a slot would stay taken for ever.
inline void WorkerSession::control_broken() {
  carry_out(lifecycle_.control_broken(Clock::now()));
  if (lifecycle_.serves()) expect_exit(errors_.no_control_socket());
}

// ---- the data socket ------------------------------------------------------------------------------------------------

inline void WorkerSession::read_results(int times) {
  const Dispatcher::Batch batch(*dispatcher_);
  data_.read(times);
}

inline void WorkerSession::result(const std::shared_ptr<Call>& call, Outcome outcome) {
  const bool cancelled = outcome.status == ResultStatus::cancelled;
  const StopRequest& stop = lifecycle_.stop_request();
  if (cancelled && !stop.begun() && call->state == CallState::running)
    return;  // nobody on this side has cancelled it: the worker ends, and its exit status is what the caller needs
  stop_account_.result(stop, cancelled);
  if (!std::exchange(answered_a_call_, true))
    if (const auto supervision = supervision_.lock()) supervision->worker_answered(*this);
  dispatcher_->record_result(call, std::move(outcome), data_.reader());
}

inline void WorkerSession::data_closed() { carry_out(lifecycle_.data_closed(Clock::now())); }

inline void WorkerSession::data_broken() {
  carry_out(lifecycle_.data_broken());
  expect_exit(errors_.error(Errc::connection_lost, "does not read its calls any more"));
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
      Error(Errc::connection_lost, std::string(what) + " " + errors_.worker() + " (" + error.message() + ")"));
  if (!lifecycle_.was_ready()) return fail_start(std::move(failure));
  data_.distrust();
  control_.fail_status([failure] { return failure; });
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
inline void WorkerSession::expect_exit(Error otherwise) {
  const auto context = lock_context();
  if (!context || std::exchange(exit_expected_, true)) return;
  after(io_->exit_timer, Clock::now() + exit_patience,
        [failure = std::make_exception_ptr(std::move(otherwise))](WorkerSession& session) {
          session.control_.fail_status([&] { return failure; });
          session.give_up(failure);
        });
}

/// For CallOptions::kill_after.
inline void WorkerSession::kill_worker() {
  if (!child_ || !child_->running()) return;
  try {
    child_->kill_leader();
    // Behind a wrapper the worker is another process.
    if (const auto worker = control_.handshake().sender(); worker && *worker != child_->pid())
      kill_descendant(*worker, child_->pid());
  } catch (const std::system_error&) {  // refused, as by a set-user-ID program: it keeps its slot and works on
    return;
  }
  carry_out(lifecycle_.killed_for_call());
  emit(Event::Kind::kill_sent);
}

}}}  // namespace drover::v1::detail
