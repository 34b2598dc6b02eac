#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Decides how many workers an elastic pool has, see PoolOptions::max_size. Pure: no I/O, and the caller brings the
/// time. Elasticity carries the decisions out.
///
/// When a worker was last used is not recorded with each call. The caller looks at all workers once in each pause(),
/// which is a quarter of idle_after: a worker whose count of answers has changed was used since the last look. So a
/// worker ends when it has been idle for idle_after, or for a quarter more at most.
class ElasticSize {
 public:
  /// `most`: workers at the same time. `per_worker`: calls that a worker takes at a time. A slot without a worker that
  /// is not wanted any more is left to its RestartPolicy for `broken_after`.
  ElasticSize(std::size_t most, std::size_t per_worker, Duration idle_after, Duration broken_after)
      : per_worker_(std::max<std::size_t>(per_worker, 1)),
        idle_after_(idle_after),
        broken_after_(std::max(idle_after, broken_after)),
        records_(most) {}

  // ---- growth -------------------------------------------------------------------------------------------------------

  struct Demand {
    std::size_t waiting = 0;   ///< calls that no worker could take
    std::size_t active = 0;    ///< slots that have a worker, or are to get one
    std::size_t starting = 0;  ///< those of them whose worker is expected to be ready soon
  };
  /// How many more workers are to be started.
  std::size_t starts(const Demand& demand) const noexcept {
    const std::size_t wanted = demand.waiting / per_worker_ + (demand.waiting % per_worker_ != 0);
    const std::size_t missing = wanted - std::min(wanted, demand.starting);
    return std::min(missing, most() - std::min(most(), demand.active));
  }
  /// As long as no more calls wait, starts() is 0.
  std::size_t covered(const Demand& demand) const noexcept {
    if (demand.active >= most() || demand.starting > SIZE_MAX / per_worker_) return SIZE_MAX;
    return demand.starting * per_worker_;
  }

  // ---- shrinking ----------------------------------------------------------------------------------------------------

  /// How a slot looks that has a worker, or is to get one.
  struct Seen {
    enum class Worker : std::uint8_t {
      ready,
      starting,
      none  ///< it does not get ready: another one is tried later
    };
    std::size_t slot = 0;
    Worker worker = Worker::ready;
    std::uint64_t answers = 0;  ///< of a worker that is ready
    bool busy = false;          ///< it has a call
    bool kept = false;          ///< something else is being done to the slot
  };

  /// The time between two looks.
  Duration pause() const noexcept {
    constexpr Duration shortest = std::chrono::milliseconds(1);
    return std::max(idle_after_ / 4 + Duration(1), shortest);
  }
  /// The worker of that slot has become ready, or the slot is to get one.
  void changed(std::size_t slot, Clock::time_point now) { records_[slot] = {.answers = 0, .idle_since = now}; }
  /// The worker of that slot has been replaced by plan. The one that took its place is as idle as it was: otherwise a
  /// pool that recycles its workers more often than idle_after would never shrink.
  void replaced(std::size_t slot) noexcept { records_[slot].answers = 0; }
  /// Returns the slots whose workers are to end. At least `least` slots stay, and as many workers that are ready. Slots
  /// without a worker come first, then the workers that have been idle for longest, then the last slots.
  std::vector<std::size_t> look(const std::vector<Seen>& slots, std::size_t least, std::size_t waiting,
                                Clock::time_point now) {
    std::vector<Seen> due;
    std::size_t ready = 0;
    for (const Seen& seen : slots) {
      ready += seen.worker == Seen::Worker::ready;
      if (is_due(seen, waiting, now)) due.push_back(seen);
    }
    std::sort(due.begin(), due.end(), [this](const Seen& a, const Seen& b) { return goes_before(a, b); });
    std::vector<std::size_t> ends;
    std::size_t active = slots.size();
    for (const Seen& seen : due) {
      const bool is_ready = seen.worker == Seen::Worker::ready;
      if (active <= least || (is_ready && ready <= least)) break;
      --active;
      if (is_ready) --ready;
      ends.push_back(seen.slot);
    }
    return ends;
  }

  std::size_t most() const noexcept { return records_.size(); }
  /// Never fewer than before. Throws std::bad_alloc.
  void set_most(std::size_t most) { records_.resize(std::max(most, records_.size())); }

 private:
  struct Record {
    std::uint64_t answers = 0;
    Clock::time_point idle_since{};  // no call has begun or ended since
  };

  bool is_due(const Seen& seen, std::size_t waiting, Clock::time_point now) {
    Record& record = records_[seen.slot];
    const bool is_ready = seen.worker == Seen::Worker::ready;
    const bool used = is_ready && (seen.busy || seen.answers != record.answers);
    if (used || waiting != 0) {
      record.idle_since = now;
      if (is_ready) record.answers = seen.answers;
      return false;
    }
    if (seen.kept || seen.worker == Seen::Worker::starting) return false;
    return now - record.idle_since >= (is_ready ? idle_after_ : broken_after_);
  }
  bool goes_before(const Seen& a, const Seen& b) const noexcept {
    const bool a_is_ready = a.worker == Seen::Worker::ready, b_is_ready = b.worker == Seen::Worker::ready;
    if (a_is_ready != b_is_ready) return b_is_ready;
    const Clock::time_point a_since = records_[a.slot].idle_since, b_since = records_[b.slot].idle_since;
    return a_since != b_since ? a_since < b_since : a.slot > b.slot;
  }

  const std::size_t per_worker_;
  const Duration idle_after_, broken_after_;
  std::vector<Record> records_;  // by slot
};

}}}  // namespace drover::v1::detail
