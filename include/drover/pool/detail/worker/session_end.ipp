#pragma once

#include <limits>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// The end of a worker, of its context, or of who owned it.
namespace drover { inline namespace v1 { namespace detail {

inline Event::Kind reported_kind(ChildEvent::Kind kind) noexcept {
  switch (kind) {
    case ChildEvent::Kind::terminate_sent: return Event::Kind::terminate_sent;
    case ChildEvent::Kind::kill_sent: return Event::Kind::kill_sent;
    case ChildEvent::Kind::stopped: return Event::Kind::stopped;
    case ChildEvent::Kind::continued: return Event::Kind::continued;
    case ChildEvent::Kind::ended: return Event::Kind::exited;
    case ChildEvent::Kind::group_over: break;
  }
  return Event::Kind::reaped;
}

inline void WorkerCore::on_child_event(const ChildEvent& event) {
  if (event.kind == ChildEvent::Kind::ended) {
    // On the reaper's thread, which must not run what follows.
    to_executor_->post([self = shared_from_this()] { self->on_ended(true); });
    return;
  }
  if (event.kind == ChildEvent::Kind::group_over) {
    to_executor_->post([self = shared_from_this()] { self->conclude_group(); });
    return;
  }
  // The mutex is not to be had here.
  emit_of(event.pid, reported_kind(event.kind), [&](Event& told) {
    told.at = event.at;
    if (event.kind == ChildEvent::Kind::stopped) told.stopped_by = event.signo;
  });
}

inline Cause WorkerCore::end_cause() const {
  return [what = "worker '" + options_.name + "' (" + std::to_string(child_->pid()) + ") ended",
          status = child_->exit_status()] { return std::make_exception_ptr(Error(Errc::worker_exited, what, status)); };
}

/// The rest of the sentence, by the exit status.
inline std::string why_it_never_served(const ExitStatus& exit) {
  if (exit.kind == ExitStatus::Kind::exited && exit.value == exit_without_descriptors)
    return ": its descriptors 3 to 5 did not reach it, or it was given others in their place; a command that is a "
           "wrapper "
           "may not close descriptors; its stderr says which are missing";
  if (exit.kind == ExitStatus::Kind::exited && exit.value == exit_without_resources)
    return ": it could not get a thread, a descriptor or memory that it needs; its stderr says which";
  return "; does its main() reach drover::serve()?";
}

inline void WorkerCore::on_ended(bool inside) {
  std::vector<std::shared_ptr<Call>> calls;
  Cause cause;
  {
    auto held = lock();
    if (phase_ == Phase::ended) {
      held = {};
      if (!inside) conclude();  // the worker's executor may never come to it
      conclude_group();
      return;
    }
    if (!child_) {  // being spawned, on another thread; begin_start() calls again
      end_waits_ = end_waits_ || inside;
      return;
    }
    if (child_->running()) return;
    // What it has said and answered counts, to the last byte. It gets nothing more. Should the program have closed a
    // socket, its number may be a file's that is not the worker's.
    if (control_ && control_->is_intact()) take_control_frames(1000);
    lane_.close();
    if (lane_.has_data() && lane_.data().is_intact()) take_results(std::numeric_limits<int>::max());
    cause = end_cause();
    const ReapReport reaped = child_->report();
    report_.exit = reaped.exit;
    report_.terminated = reaped.terminated;
    report_.killed = reaped.killed;
    report_.lost_lines = reaped.lost_lines;
    report_.lost_bytes = reaped.lost_bytes;
    if (phase_ == Phase::starting && !start_failure_) {
      if (stop_.begun())
        start_failure_ = std::make_exception_ptr(std::system_error(std::error_code(asio::error::operation_aborted)));
      else if (reaped.terminated)
        start_failure_ = std::make_exception_ptr(Error(
            Errc::protocol_error, "worker '" + options_.name + "' closed its control socket before it was ready"));
      else
        start_failure_ =
            std::make_exception_ptr(Error(Errc::start_failed,
                                          "worker '" + options_.name + "' (" + options_.command.program.string() +
                                              ") exited before it was ready" + why_it_never_served(reaped.exit),
                                          reaped.exit));
    }
    phase_ = Phase::ended;
    if (stop_.begun()) {
      report_.rpc = died_unasked_ ? make_error_code(Errc::worker_exited) : stop_.rpc(reaped.terminated);
      if (!metadata_) report_.rpc = make_error_code(Errc::not_running);  // there was nobody to ask yet
      report_.elapsed = Clock::now() - stop_.begun_at();
      report_.cancelled += lane_.in_flight();  // cut off
    }
    dispatcher_->remove_lane(lane_);
    for (const auto& call : lane_.calls())
      if (dispatcher_->settle(*call, CallEvent::worker_ended)) calls.push_back(call);
    if (mode_.solo && !stop_.begun()) dispatcher_->refuse(cause);
    status_.fail(cause);
    if (failure_) cause = [failure = failure_] { return failure; };
    end_was_expected_ = expected_end_ || (stop_.begun() && !died_unasked_) || (drains_ && reaped.exit.success());
    emit(Event::Kind::exited, [&](Event& told) {
      told.exit = reaped.exit;
      told.expected = end_was_expected_;
    });
    if (mode_.solo) {
      auto waiting = dispatcher_->drop_queue();
      calls.insert(calls.end(), waiting.begin(), waiting.end());
    }
    dispatcher_->disarm();
    release_io();
  }
  const bool answers_wait = dispatcher_->deliver(false);
  Dispatcher::fail(std::move(calls), cause);
  // Who was answered hears of it before those who wait for the end do.
  if (answers_wait && inside && to_executor_->post([self = shared_from_this()] {
        self->conclude();
        self->conclude_group();
      }))
    return;
  conclude();
  conclude_group();
}

/// Once, when nothing of the worker's process group is left either: what waits for the end may go on.
inline void WorkerCore::conclude_group() {
  {
    const auto held = lock();
    if (phase_ != Phase::ended || !concluded_ || !child_ || !child_->over_at() || std::exchange(group_concluded_, true))
      return;
    emit(Event::Kind::reaped, [this](Event& told) {
      told.exit = child_->exit_status();
      told.expected = end_was_expected_;
    });
  }
  finished_->set();
}

/// Once.
inline void WorkerCore::conclude() {
  {
    const auto held = lock();
    if (std::exchange(concluded_, true)) return;
  }
  started_->set();
  if (const auto supervision = supervision_.lock()) supervision->worker_ended(*this);
}

inline void WorkerCore::release_io() noexcept {
  if (foreign()) (void)io_.release();  // a forked copy shares the original's epoll: not to be touched
  io_.reset();
  lane_.disconnect();
  if (data_socket_) close_without_descriptors(std::move(data_socket_));
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
    status_.fail(gone);
  }
  Dispatcher::fail(std::move(calls), gone);
  started_->set();
  finished_->set();
}

}}}  // namespace drover::v1::detail
