#pragma once

#include <cstdint>
#include <memory>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/histogram.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// How long the calls of a pool wait and run, as PoolStats says. Does nothing before enable(). Both times of a call are
/// recorded when it has ended: one that its worker gives back unbegun waits on.
///
/// The clock is read once at a submit, and once for all results that are processed together. Guarded by the
/// dispatcher's mutex, except enabled().
class CallTimes {
 public:
  struct Histograms {
    Histogram queue, run;
  };

  /// Before the first call.
  void enable() { histograms_ = std::make_unique<Histograms>(); }
  bool enabled() const noexcept { return histograms_ != nullptr; }
  /// All empty before enable().
  Histograms histograms() const noexcept { return histograms_ ? *histograms_ : Histograms(); }

  /// All events until end_batch() happen at the time of the first one.
  void begin_batch() noexcept { batch_ = Batch::begun; }
  void end_batch() noexcept { batch_ = Batch::none; }
  bool in_batch() const noexcept { return batch_ != Batch::none; }

  /// It begins at once, unless begins() follows.
  void submitted(Call& call, Clock::time_point now) noexcept { call.submitted_at = call.began_at = now; }
  /// A worker got it after a wait, or its turn there has come.
  void begins(Call& call) noexcept {
    if (histograms_) call.began_at = now();
  }
  /// A worker had it, and has answered it or has exited.
  void ended(const Call& call) noexcept {
    if (!histograms_) return;
    call.awaits_begun ? left_queue(call) : record(call);
  }
  /// It ended without having begun.
  void left_queue(const Call& call) noexcept {
    if (histograms_) histograms_->queue.record(now() - call.submitted_at);
  }

 private:
  enum class Batch : std::uint8_t {
    none,
    begun,
    timed  ///< batch_at_ is its time
  };

  [[gnu::noinline]] void record(const Call& call) noexcept {
    histograms_->queue.record(call.began_at - call.submitted_at);
    histograms_->run.record(now() - call.began_at);
  }
  Clock::time_point now() noexcept {
    if (batch_ == Batch::timed) return batch_at_;
    const auto now = Clock::now();
    if (batch_ == Batch::none) return now;
    batch_ = Batch::timed;
    return batch_at_ = now;
  }

  std::unique_ptr<Histograms> histograms_;
  Batch batch_ = Batch::none;
  Clock::time_point batch_at_;
};

}}}  // namespace drover::v1::detail
