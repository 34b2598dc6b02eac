#pragma once

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/error.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/detail/exit_watcher.hpp>
#include <drover/os/process.hpp>

namespace drover { inline namespace v1 {
namespace detail {

inline asio::awaitable<void> told_of(std::shared_ptr<ChildProcess> child, std::shared_ptr<AsyncEvent> event) {
  if (child->foreign())
    throw std::system_error(ECHILD, std::system_category(),
                            "the process belongs to the program that this one is a forked copy of");
  // The process's last lines may be queued on this very executor: let them run first.
  const auto resume = child->has_lines() ? AsyncEvent::Resume::posted : AsyncEvent::Resume::at_once;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::optional<ExitWatcher> watch;
  if (!event->is_set()) {
    child->attend();
    watch.emplace(child, executor);
  }
  co_await AsyncEvent::wait(event, resume);
}

inline asio::awaitable<ExitStatus> end_of(std::shared_ptr<ChildProcess> child) {
  if (!child) throw Error(Errc::not_running, "cannot wait for a process that was never started");
  co_await told_of(child, child->ended());
  co_return child->report().exit;
}

inline asio::awaitable<ReapReport> report_of(std::shared_ptr<ChildProcess> child) {
  if (!child) co_return ReapReport{};
  co_await told_of(child, child->settled());
  const std::error_code refused = child->refused();
  if (refused && !child->ended()->is_set())
    throw std::system_error(refused, "process " + std::to_string(child->pid()) + " cannot be killed");
  co_return child->report();
}

}  // namespace detail

DROVER_INLINE Process Process::spawn(const Command& command) {
  const Command own(command);  // see BraceSafe
  return Process(detail::ChildProcess::spawn(own));
}

DROVER_INLINE Process::~Process() {
  if (child_) child_->abandon();
}

DROVER_INLINE pid_t Process::pid() const noexcept { return child_ ? child_->pid() : 0; }
DROVER_INLINE bool Process::running() const noexcept { return child_ && child_->running(); }
DROVER_INLINE std::optional<int> Process::stopped() const { return child_ ? child_->stopped() : std::nullopt; }
DROVER_INLINE std::optional<ExitStatus> Process::exit_status() const {
  return child_ ? child_->exit_status() : std::nullopt;
}

DROVER_INLINE void Process::signal(int signo) {
  if (child_) child_->signal(signo);
}

DROVER_INLINE asio::awaitable<ExitStatus> Process::wait() { return detail::end_of(child_); }

DROVER_INLINE asio::awaitable<ReapReport> Process::reap(ReapPlan plan) {
  detail::require_not_negative(plan.patience, "the patience of a reap");
  detail::require_not_negative(plan.term_grace, "the term_grace of a reap");
  if (child_) child_->reap(plan);
  return detail::report_of(child_);
}

}}  // namespace drover::v1
