#pragma once

#include <memory>
#include <utility>

#include <asio/execution_context.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

class TimerTarget {
 public:
  /// Called on a thread of the context, but not on any executor of the pool.
  virtual void timer_fired() noexcept = 0;
  /// The wait will not end, because there was not enough memory for it. Called like timer_fired().
  virtual void timer_failed() noexcept = 0;

 protected:
  ~TimerTarget() = default;
};

/// A steady timer whose pending wait is not work: it does not keep run() or join() from returning. The Asio timer is
/// owned by its own pending handler, so it is destroyed silently with the context.
///
/// A pending wait counts as one unit of work in the scheduler. That unit is taken back as soon as the wait is armed,
/// and added again at the start of the completion handler, whose end takes it back a second time. Taking back the last
/// unit would stop the context. So this is done only inside a handler of the context, which is a unit itself.
class IdleTimer {
 public:
  IdleTimer(asio::execution_context& context, std::shared_ptr<ContextRegistry> registry)
      : context_(&context), registry_(std::move(registry)) {}
  IdleTimer(const IdleTimer&) = delete;
  IdleTimer& operator=(const IdleTimer&) = delete;
  ~IdleTimer() { cancel(); }

  /// From any thread. Must not be called while an earlier wait is pending. Does nothing if the context is destroyed. If
  /// it throws, no wait is pending.
  void arm(Clock::time_point at, std::weak_ptr<TimerTarget> target);

  void cancel() noexcept;

 private:
  struct Wait;

  static void start(std::shared_ptr<Wait> wait, Clock::time_point at);
  static void start_from_outside(std::shared_ptr<Wait> wait, Clock::time_point at);

  asio::execution_context* context_;  // must not be used once the registry is closed
  std::shared_ptr<ContextRegistry> registry_;
  std::weak_ptr<Wait> wait_;
};

/// The clock and the timer of a pool. Tests replace both.
struct SteadyTime {
  using Timer = IdleTimer;
  static Clock::time_point now() noexcept { return Clock::now(); }
};

}}}}  // namespace drover::v1::detail::resource_pool

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/resource_pool/idle_timer.ipp>
#endif
