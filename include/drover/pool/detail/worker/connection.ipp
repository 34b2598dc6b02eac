#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>

#include <drover/detail/context/when_due.hpp>
#include <drover/os/detail/lineage.hpp>
#include <drover/os/detail/process_figures.hpp>
#include <drover/pool/detail/worker/connection.hpp>
#include <drover/wire/fork_request.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline WorkerConnection::Io::Io(const asio::any_io_executor& executor)
    : work(asio::prefer(executor, asio::execution::outstanding_work.tracked)),
      start_timer(executor),
      exit_timer(executor) {}

inline void WorkerConnection::keep_context() {
  const auto& registry = dispatcher_.registry();
  const auto registry_lock = registry->lock();
  const auto executor = dispatcher_.executor();
  if (executor && !registry->closed()) spawning_ = asio::prefer(*executor, asio::execution::outstanding_work.tracked);
}

inline void WorkerConnection::release_context() noexcept {
  if (!spawning_) return;
  const auto& registry = dispatcher_.registry();
  const auto registry_lock = registry->lock();
  asio::any_io_executor work = *std::exchange(spawning_, std::nullopt);
  if (registry->closed()) return;
  try {
    const asio::any_io_executor executor = asio::prefer(work, asio::execution::outstanding_work.untracked);
    asio::post(executor, [ends_there = std::move(work)] {});
  } catch (...) {  // no memory: it ends here
  }
}

inline void WorkerConnection::open(UniqueFd control, UniqueFd data, Timeout start_timeout) {
  const auto& registry = dispatcher_.registry();
  const auto registry_lock = registry->lock();
  control_.open(std::move(control), worker_.child->pid());
  data_.open(std::move(data), std::max(worker_.options.max_message_size, least_max_body));
  const auto executor = dispatcher_.executor();
  if (!executor || registry->closed()) return;
  io_ = std::make_unique<Io>(*executor);
  start_by_ = deadline_after(Clock::now(), start_timeout);
  if (start_by_) after(io_->start_timer, *start_by_, [this] { start_deadline(); });
  data_.attach(*executor);  // now, so that a failure is one of the start
  control_.watch(*executor);
  spawning_.reset();  // there is other work now
}

inline void WorkerConnection::close() noexcept {
  if (foreign()) (void)io_.release();  // a forked copy shares the parent's epoll set, which must not be touched
  io_.reset();
  spawning_.reset();
  control_.close(foreign());
  data_.close(foreign());
}

/// Calls `then` under the mutex, unless the timer is cancelled or set anew.
inline void WorkerConnection::after(asio::steady_timer& timer, Clock::time_point at, std::function<void()> then) {
  timer.expires_at(at);
  when_due(timer, [this, weak = std::weak_ptr(owner_.keep_alive()), then = std::move(then)] {
    const auto alive = weak.lock();
    if (!alive) return;
    const auto held = lock();
    then();
  });
}

// ---- start ----------------------------------------------------------------------------------------------------------

inline void WorkerConnection::start_deadline() {
  if (!worker_.lifecycle.awaits_hello()) return;
  control_.read(16);  // before it is declared late: this process may have been the one that slept
  if (worker_.lifecycle.awaits_hello()) fail_start(std::make_exception_ptr(worker_.errors.late_start(*worker_.child)));
}

inline void WorkerConnection::fail_start(std::exception_ptr failure) {
  if (!worker_.lifecycle.awaits_hello()) return;
  worker_.start_failure = std::move(failure);
  owner_.carry_out(worker_.lifecycle.start_failed(Clock::now()));
}

inline bool WorkerConnection::hello(const Frame& frame) {
  if (!worker_.lifecycle.awaits_hello()) return false;  // it was asked to end before it was ready
  worker_.metadata = control_.handshake().metadata(frame, worker_.options, worker_.child->pid());
  worker_.metadata->slot = worker_.slot;
  stall_reports_.worker_ready(Clock::now());
  if (worker_.rss_limit != 0) check_memory();
  if (io_) io_->start_timer.cancel();
  owner_.became_ready(worker_.lifecycle.hello());
  return true;
}

/// One that is over RecyclePolicy::rss from the beginning would be recycled for ever. Throws Error.
inline void WorkerConnection::check_memory() {
  const auto rss = resident_set(worker_.metadata->pid);
  if (!rss)
    throw worker_.errors.error(Errc::start_failed,
                               "has a resident set that /proc does not tell, but RecyclePolicy::rss is set");
  if (*rss >= worker_.rss_limit)
    throw worker_.errors.error(Errc::start_failed, "has a resident set of " + std::to_string(*rss) +
                                                       " bytes before its first call, and RecyclePolicy::rss is " +
                                                       std::to_string(worker_.rss_limit) + "; raise it");
}

inline void WorkerConnection::start_failed(const Frame& frame) {
  if (!worker_.lifecycle.awaits_hello()) return;
  const StartFailure failure = Handshake::start_failure(frame, worker_.errors);
  worker_.cannot_fork = failure.type == cannot_fork;
  worker_.start_failure = std::make_exception_ptr(worker_.errors.failed_hook(failure));
  if (io_) io_->start_timer.cancel();
  owner_.carry_out(worker_.lifecycle.start_refused(Clock::now()));
}

// ---- calls ----------------------------------------------------------------------------------------------------------

inline void WorkerConnection::begin_calls() {
  data_.take_calls(worker_.child->running());  // what waits is not for one that has exited already
  dispatcher_.add_link(data_);
  if (io_) data_.begin_reading();
}

inline void WorkerConnection::take_slot(std::size_t slot, const SlotVariables& variables) {
  ByteBuffer body;
  Encoder encoder(body);
  encoder.put(variables);
  data_.send_slot(slot, body.view());
}

inline void WorkerConnection::read_results(int times) {
  const ResultBatch batch(dispatcher_);
  data_.read(times);
}

inline void WorkerConnection::result(const std::shared_ptr<Call>& call, Outcome outcome) {
  const bool cancelled = outcome.status == ResultStatus::cancelled;
  const StopRequest& stop = worker_.lifecycle.stop_request();
  if (cancelled && !stop.begun() && call->state != CallState::abandoned) {
    // Nobody on this side has cancelled it: the worker ends, and its exit status is what the caller needs.
    if (!std::exchange(call->refused_by_worker, true)) return;
    throw worker_.errors.error(Errc::protocol_error, "sent two results for one call");
  }
  worker_.stop_account.result(stop, cancelled);
  if (++worker_.answers == 1) owner_.first_answer();
  dispatcher_.record_result(call, std::move(outcome), data_.reader());
  if (worker_.answers == worker_.wears_out_at) owner_.worn_out();
}

inline void WorkerConnection::data_closed() { owner_.carry_out(worker_.lifecycle.data_closed(Clock::now())); }

inline void WorkerConnection::data_broken() {
  owner_.carry_out(worker_.lifecycle.data_broken());
  expect_exit(worker_.errors.error(Errc::connection_lost, "does not read its calls any more"));
}

/// A socket that the program has closed is not read: its number may be another file by now.
inline void WorkerConnection::read_rest() {
  close_calls();
  data_.assume_unread();
  if (control_.is_intact()) control_.read(1000);
  if (!worker_.lifecycle.was_ready() || !data_.is_intact()) return;
  data_.shut_down_reading();  // behind a wrapper the worker may still run
  read_results(std::numeric_limits<int>::max());
}

inline void WorkerConnection::describe_calls(WorkerFigures& figures, Clock::time_point now) const {
  figures.in_flight = data_.in_flight();
  const Call* const oldest = data_.oldest();
  if (oldest == nullptr) return;
  figures.oldest_call = std::max(now - oldest->began_at, Duration::zero());
  figures.oldest_routine = oldest->routine();
}

inline void WorkerConnection::end_calls(CallQueue& ended) {
  dispatcher_.remove_link(data_);
  if (worker_.child && !worker_.child->running() && control_.handshake().sender() == worker_.child->pid())
    data_.set_process_has_ended();
  if (Call* const ahead = data_.ahead()) {  // first: its turn has not come
    const std::shared_ptr<Call> call = ahead->shared_from_this();
    if (dispatcher_.end_ahead(*ahead, data_.has_read_all())) ended.push(call);
  }
  data_.slots().for_each([&](const std::shared_ptr<Call>& call) {
    if (dispatcher_.end_with_worker(call)) ended.push(call);
  });
  dispatcher_.send_queued();  // those that waited for this worker alone
}

/// SIGKILL to the worker itself. False if that is impossible.
inline bool WorkerConnection::kill_process() {
  const auto& child = worker_.child;
  if (!child || !child->running()) return false;
  try {
    child->kill_leader();
    // Behind a wrapper the worker is another process.
    if (const auto sender = control_.handshake().sender(); sender && *sender != child->pid())
      kill_descendant(*sender, child->pid());
  } catch (const std::system_error&) {  // refused, as by a set-user-ID program: it works on
    return false;
  }
  return true;
}

/// For CallOptions::kill_after.
inline void WorkerConnection::kill_worker(const Call& call) {
  if (worker_.lifecycle.was_killed() || !kill_process()) return;
  owner_.carry_out(worker_.lifecycle.killed_for_call());
  worker_.emit(Event::Kind::kill_sent, std::nullopt, CallNames::of(&call));
}

// ---- control --------------------------------------------------------------------------------------------------------

inline void WorkerConnection::send_stop() {
  const auto nanoseconds = [](Deadline at) {
    return at ? std::chrono::duration_cast<std::chrono::nanoseconds>(at->time_since_epoch()).count() : never;
  };
  const StopRequest& stop = worker_.lifecycle.stop_request();
  StopBody body;
  body.drain_until = nanoseconds(stop.drain_until());
  // One whose stop was cut short still has the time between SIGTERM and SIGKILL, for its calls to clean up.
  const Deadline end_by = stop.end_by();
  body.end_by =
      nanoseconds(end_by && stop.was_cut_short() ? deadline_after(*end_by, worker_.options.term_grace) : end_by);
  control_.send_stop(body, data_.slots().last_id());
}

inline bool WorkerConnection::stop_acknowledged() {
  if (!worker_.lifecycle.stop_request().begun()) return false;
  owner_.carry_out(worker_.lifecycle.acknowledged(Clock::now()));
  return true;
}

inline void WorkerConnection::draining(std::uint64_t last_begun) {
  owner_.carry_out(worker_.lifecycle.draining());
  if (last_begun != nothing_begun_yet) dispatcher_.take_back(data_, last_begun);
  owner_.leaves();
}

inline bool WorkerConnection::stalled(std::uint64_t call, Duration age) {
  if (call > data_.slots().last_id() || !stall_reports_.admit(Clock::now(), age)) return false;
  Stall stall{.age = age};
  data_.slots().look_at_each([&](const Call& each) {
    if (each.id == call) stall.call = CallNames::of(&each);
  });
  worker_.emit_stalled(stall);
  const WorkerLifecycle& life = worker_.lifecycle;
  // After a stop has begun, its deadlines count.
  if (!worker_.options.kill_stalled || life.stop_request().begun() || life.was_killed() || !kill_process()) return true;
  owner_.carry_out(worker_.lifecycle.killed_for_stall());
  worker_.emit(Event::Kind::kill_sent, std::nullopt, stall.call);
  worker_.stall = std::move(stall);
  return true;
}

inline void WorkerConnection::control_closed(bool mid_frame) {
  if (mid_frame && worker_.lifecycle.awaits_hello())
    return fail_start(std::make_exception_ptr(
        worker_.errors.error(Errc::protocol_error, "closed its control socket in the middle of its HELLO")));
  owner_.carry_out(worker_.lifecycle.control_closed(Clock::now()));
  if (!worker_.lifecycle.serves() || !control_.owes_status()) return;
  // No STATUS_REPLY can arrive any more. The exit status explains more, so it gets 500 ms to arrive first.
  const auto context = lock_context();
  if (!context) return;
  after(io_->start_timer, Clock::now() + exit_patience, [this] {  // the start is over
    fail_status([this] { return std::make_exception_ptr(worker_.errors.no_control_socket()); });
  });
}

/// A frame was lost, a CANCEL perhaps, without which a slot would stay taken for ever.
inline void WorkerConnection::control_broken() {
  owner_.carry_out(worker_.lifecycle.control_broken(Clock::now()));
  if (worker_.lifecycle.serves()) expect_exit(worker_.errors.no_control_socket());
}

// ---- either socket --------------------------------------------------------------------------------------------------

inline std::unique_lock<std::mutex> WorkerConnection::lock_context() const {
  auto context = dispatcher_.registry()->lock();
  if (!io_ || dispatcher_.registry()->closed()) context.unlock();
  return context;
}

inline void WorkerConnection::socket_failed(const char* what, std::error_code error) {
  auto failure = std::make_exception_ptr(
      Error(Errc::connection_lost, std::string(what) + " " + worker_.errors.worker() + " (" + error.message() + ")"));
  if (!worker_.lifecycle.was_ready()) return fail_start(std::move(failure));
  data_.distrust();
  fail_status([failure] { return failure; });
  give_up(std::move(failure));
}

inline void WorkerConnection::peer_failed(std::exception_ptr failure) {
  if (!worker_.lifecycle.was_ready()) return fail_start(std::move(failure));
  data_.distrust();
  give_up(std::move(failure));
}

/// Terminates a worker that is of no use any more. Its calls fail with `failure`.
inline void WorkerConnection::give_up(std::exception_ptr failure) {
  if (!worker_.lifecycle.serves() || worker_.failure) return;
  worker_.failure = std::move(failure);
  owner_.carry_out(worker_.lifecycle.failed(Clock::now()));
}

/// The worker has usually just exited, and its status is about to arrive. If it has not within 500 ms, it is given up.
inline void WorkerConnection::expect_exit(Error otherwise) {
  const auto context = lock_context();
  if (!context || std::exchange(exit_expected_, true)) return;
  after(io_->exit_timer, Clock::now() + exit_patience, [this, failure = std::make_exception_ptr(std::move(otherwise))] {
    fail_status([&] { return failure; });
    give_up(failure);
  });
}

}}}  // namespace drover::v1::detail
