#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// What a worker says of itself, and what this side knows of it.
namespace drover { inline namespace v1 { namespace detail {

inline asio::awaitable<WorkerStatus> WorkerCore::ask_status(std::shared_ptr<WorkerCore> core, Timeout bound) {
  const auto waiter = std::make_shared<StatusWaiter>();
  std::exception_ptr failure;
  {
    const auto held = core->lock();
    if (core->phase_ == Phase::ready && core->control_ && !core->control_closed_) {
      if (core->status_.add(waiter)) core->send_status_request();
    } else if (core->phase_ == Phase::ready && !core->stop_.begun()) {
      failure = core->no_control_socket();
    } else if (core->phase_ == Phase::ended && core->child_ && (!core->stop_.begun() || core->died_unasked_)) {
      failure = core->end_cause()();
    } else {
      failure =
          std::make_exception_ptr(Error(Errc::not_running, "worker '" + core->options_.name + "' is not running"));
    }
  }
  if (failure) std::rethrow_exception(failure);
  std::optional<asio::steady_timer> limit;
  if (const Deadline deadline = deadline_after(Clock::now(), bound)) {
    limit.emplace(co_await asio::this_coro::executor, *deadline);
    limit->async_wait([core, waiter](std::error_code ec) {
      if (ec) return;
      const auto held = core->lock();
      waiter->end_with(std::make_exception_ptr(
          Error(Errc::deadline_exceeded,
                "worker '" + core->options_.name + "' did not answer status() in time" + core->stop_remark())));
    });
  }
  co_await AsyncEvent::wait(waiter->answered);
  const auto held = core->lock();
  if (waiter->failure) std::rethrow_exception(std::exchange(waiter->failure, nullptr));
  co_return *waiter->status;
}

/// For the text of an error about a worker that does not answer.
inline std::string WorkerCore::stop_remark() const {
  const auto signo = child_ ? child_->stopped() : std::nullopt;
  return signo ? "; its process is stopped by " + signal_name(*signo) : std::string();
}

inline void WorkerCore::send_status_request() {
  FrameHeader header;
  header.type = FrameType::status;
  header.id = status_.begin();
  queue_control(header);
}

inline WorkerCore::Phase WorkerCore::phase() const {
  const auto held = lock();
  return phase_;
}

inline bool WorkerCore::alive() const {
  const auto held = lock();
  return child_ && child_->running();
}

inline pid_t WorkerCore::pid() const {
  const auto held = lock();
  return child_ ? child_->pid() : 0;
}

inline std::optional<ExitStatus> WorkerCore::exit_status() const {
  const auto held = lock();
  return child_ ? child_->exit_status() : std::nullopt;
}

inline StopReport WorkerCore::stop_report() const {
  const auto held = lock();
  StopReport report = report_;
  if (phase_ == Phase::ended && child_ && stop_.begun() && !report_of_the_dead_) {
    const ReapReport reaped = child_->report();  // what was left of its group may have been signalled since
    report.terminated = reaped.terminated;
    report.killed = reaped.killed;
    if (const auto over_at = child_->over_at(); over_at && *over_at > stop_.begun_at())
      report.elapsed = *over_at - stop_.begun_at();
  }
  if (phase_ != Phase::ended && child_ && child_->exit_status()) {  // the worker's context went first
    const ReapReport reaped = child_->report();
    report.exit = reaped.exit;
    report.terminated = reaped.terminated;
    report.killed = reaped.killed;
    report.lost_lines = reaped.lost_lines;
    report.lost_bytes = reaped.lost_bytes;
    report.rpc = make_error_code(Errc::connection_lost);
    report.elapsed = reaped.elapsed;
  }
  return report;
}

inline std::exception_ptr WorkerCore::take_start_failure() {
  const auto held = lock();
  return std::exchange(start_failure_, nullptr);
}

inline bool WorkerCore::ended_gracefully() const {
  const auto held = lock();
  return drains_ && child_ && child_->exit_status().value_or(ExitStatus{}).success();
}

inline bool WorkerCore::answered_a_call() const {
  const auto held = lock();
  return answered_a_call_;
}

inline bool WorkerCore::stop_begun() const {
  const auto held = lock();
  return stop_.begun();
}

inline bool WorkerCore::killed_for_a_call() const {
  const auto held = lock();
  return killed_for_a_call_;
}

}}}  // namespace drover::v1::detail
