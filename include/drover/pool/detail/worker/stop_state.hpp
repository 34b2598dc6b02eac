#pragma once

#include <optional>
#include <system_error>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The parent's half of stopping a worker, as data. However many ask, there is one stop with one absolute budget, which
/// later ones may only shorten. Pure; whoever carries it out brings the time, sends STOP and hands `end_by` to the
/// reap.
class StopState {
 public:
  struct Limits {
    Duration stop_margin{}, shutdown_grace{};
  };

  enum class Phase { running, asked, acknowledged, lost, aborted };

  explicit StopState(Limits limits) noexcept : limits_(limits) {}

  Phase phase() const noexcept { return phase_; }
  bool begun() const noexcept { return phase_ != Phase::running; }
  Clock::time_point begun_at() const noexcept { return begun_at_; }
  /// Calls may finish until then.
  Deadline drain_until() const noexcept { return drain_until_; }
  /// SIGTERM is sent then if the worker has not gone.
  Deadline end_by() const noexcept { return end_by_; }

  /// Someone wants it to stop. True if the limits are new or shorter now: STOP is to be sent (again), and the reap
  /// told.
  bool ask(Clock::time_point now, Timeout grace) {
    const Deadline drain = deadline_after(now, grace);
    const Deadline end = drain ? deadline_after(*drain, limits_.stop_margin) : Deadline{};
    if (!begun()) {
      phase_ = Phase::asked;
      begun_at_ = now;
      drain_until_ = drain;
      end_by_ = end;
      return true;
    }
    const Deadline drain_before = drain_until_, end_before = end_by_;
    drain_until_ = earlier(drain_until_, drain);
    end_by_ = earlier(end_by_, end);
    return drain_until_ != drain_before || end_by_ != end_before;
  }

  /// A bound on the graceful part that comes from elsewhere: calls are cancelled then, and SIGTERM is sent. True if it
  /// shortens.
  bool cut(Clock::time_point at) {
    const Deadline before = end_by_;
    drain_until_ = earlier(drain_until_, at);
    end_by_ = earlier(end_by_, at);
    if (end_by_ == before) return false;
    cut_off_ = true;
    return true;
  }

  /// Is there less time than a stop takes? The worker then has until SIGKILL for what SIGTERM makes it do.
  bool cut_off() const noexcept { return cut_off_ || (end_by_ && drain_until_ == end_by_); }

  /// The worker has done what STOP said. Without a budget it has shutdown_grace left to end.
  void acknowledged(Clock::time_point now) {
    if (phase_ != Phase::asked && phase_ != Phase::lost) return;
    if (end_by_ && now > *end_by_) return;  // too late: SIGTERM has been sent
    phase_ = Phase::acknowledged;
    if (!end_by_) end_by_ = deadline_after(now, limits_.shutdown_grace);
  }

  /// STOP could not be sent, or the control socket is closed.
  void lost(Clock::time_point now) {
    if (phase_ != Phase::asked) return;
    phase_ = Phase::lost;
    // Nobody will answer any more: without a budget it has as long as after an answer.
    if (!end_by_) end_by_ = deadline_after(now, limits_.shutdown_grace);
  }

  /// The caller was cancelled: no more patience.
  void abort(Clock::time_point now) {
    if (phase_ == Phase::asked || phase_ == Phase::lost) phase_ = Phase::aborted;
    cut(now);
  }

  /// What became of the request, once the process has gone.
  std::error_code rpc(bool terminated) const {
    switch (phase_) {
      case Phase::running:
      case Phase::acknowledged: return {};
      case Phase::aborted: return asio::error::operation_aborted;
      case Phase::lost: return make_error_code(terminated ? Errc::deadline_exceeded : Errc::connection_lost);
      case Phase::asked: break;
    }
    return make_error_code(terminated ? Errc::deadline_exceeded : Errc::connection_lost);
  }

 private:
  Limits limits_;
  Phase phase_ = Phase::running;
  Clock::time_point begun_at_{};
  Deadline drain_until_;
  Deadline end_by_;
  bool cut_off_ = false;
};

}}}  // namespace drover::v1::detail
