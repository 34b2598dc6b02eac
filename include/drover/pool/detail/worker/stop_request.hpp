#pragma once

#include <cstdint>
#include <system_error>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The request to stop a worker: its deadlines, and its result. However many callers ask, there is one request with one
/// absolute budget, which later callers may only shorten. Pure.
class StopRequest {
 public:
  /// The state of the process when the first stop came.
  enum class Process : std::uint8_t { running, exited, processed /* exited, and all that follows from it was done */ };

  bool begun() const noexcept { return phase_ != Phase::none; }
  Clock::time_point begun_at() const noexcept { return begun_at_; }
  /// Calls may finish until then.
  Deadline drain_until() const noexcept { return drain_until_; }
  /// SIGTERM is sent then.
  Deadline end_by() const noexcept { return end_by_; }
  /// The graceful part was cut short. The worker may then use the time up to SIGKILL to cancel its calls.
  bool was_cut_short() const noexcept { return cut_short_ || (end_by_ && drain_until_ == end_by_); }
  /// The process had exited before anybody asked it to stop.
  bool came_late() const noexcept { return phase_ == Phase::late || phase_ == Phase::after_exit; }
  bool came_after_exit() const noexcept { return phase_ == Phase::after_exit; }

  /// False if a stop has begun before.
  bool begin(Clock::time_point now, Process process) noexcept {
    if (begun()) return false;
    begun_at_ = now;
    phase_ = process == Process::running ? Phase::asked : process == Process::exited ? Phase::late : Phase::after_exit;
    return true;
  }
  /// Calls may finish within `grace`, and the worker has `margin` more. True if a deadline is earlier than before.
  bool allow(Clock::time_point now, Timeout grace, Duration margin) noexcept {
    const Deadline drain = deadline_after(now, grace);
    return shorten(drain, drain ? deadline_after(*drain, margin) : Deadline{});
  }
  /// A bound that comes from elsewhere: calls are cancelled then, and SIGTERM is sent. True if that is earlier.
  bool cut(Clock::time_point at) noexcept {
    const Deadline before = end_by_;
    shorten(at, at);
    if (end_by_ == before) return false;
    cut_short_ = true;
    return true;
  }

  /// The worker has done what STOP said. Without a budget it has `exit_grace` left to exit.
  void acknowledged(Clock::time_point now, Duration exit_grace) noexcept {
    if (phase_ != Phase::asked && phase_ != Phase::lost) return;
    if (end_by_ && now > *end_by_) return;  // SIGTERM has been sent
    phase_ = Phase::acknowledged;
    if (!end_by_) end_by_ = deadline_after(now, exit_grace);
  }
  /// STOP could not be sent, or its answer cannot arrive. The worker has as long as after an answer.
  void lost(Clock::time_point now, Duration exit_grace) noexcept {
    if (phase_ != Phase::asked) return;
    phase_ = Phase::lost;
    if (!end_by_) end_by_ = deadline_after(now, exit_grace);
  }
  /// The caller does not wait any more.
  void abort(Clock::time_point now) noexcept {
    if (phase_ == Phase::asked || phase_ == Phase::lost) phase_ = Phase::aborted;
    cut(now);
  }

  /// For StopReport::rpc, once the process has exited. `was_ready`: there was somebody to ask. `terminated`: it was
  /// sent SIGTERM.
  std::error_code result(bool was_ready, bool terminated) const noexcept {
    if (!was_ready && begun()) return make_error_code(Errc::not_running);
    switch (phase_) {
      case Phase::none:
      case Phase::acknowledged: return {};
      case Phase::late:
      case Phase::after_exit: return make_error_code(Errc::worker_exited);
      case Phase::aborted: return asio::error::operation_aborted;
      case Phase::asked:
      case Phase::lost: break;
    }
    return make_error_code(terminated ? Errc::deadline_exceeded : Errc::connection_lost);
  }

 private:
  enum class Phase : std::uint8_t { none, asked, acknowledged, lost, aborted, late, after_exit };

  bool shorten(Deadline drain, Deadline end) noexcept {
    const Deadline drain_before = drain_until_, end_before = end_by_;
    drain_until_ = earlier(drain_until_, drain);
    end_by_ = earlier(end_by_, end);
    return drain_until_ != drain_before || end_by_ != end_before;
  }

  Phase phase_ = Phase::none;
  Clock::time_point begun_at_{};
  Deadline drain_until_, end_by_;
  bool cut_short_ = false;
};

}}}  // namespace drover::v1::detail
