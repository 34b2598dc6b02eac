#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <asio/steady_timer.hpp>

#include <drover/pool/detail/call/queue_watcher.hpp>
#include <drover/pool/detail/elastic_size.hpp>
#include <drover/pool/detail/slot.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// Wakes dormant slots of a pool while calls wait, and lets workers go that have been idle for long, see
/// PoolOptions::max_size. Does nothing in a pool that is not elastic. Guarded by the dispatcher's mutex.
class Elasticity final : public QueueWatcher {
 public:
  Elasticity(PoolSlots& slots, const PoolOptions& options)
      : slots_(slots),
        on_(options.max_size != 0),
        least_(options.size),
        size_(options.max_size, options.worker.max_in_flight, options.idle_after, options.restart.max_backoff) {}

  /// The pool is elastic.
  bool on() const noexcept { return on_; }
  /// Slots that are active even if there is nothing to do.
  std::size_t least() const noexcept { return least_; }
  void set_least(std::size_t least) noexcept { least_ = least; }
  /// The pool may have so many slots. Throws std::bad_alloc.
  void reserve(std::size_t slots) {
    if (on_) size_.set_most(slots);
  }

  /// The first start is over.
  void begin();
  void stop() noexcept;
  void release_timer() noexcept { (void)timer_.release(); }

  /// The slot has another worker, which is ready, or is to get its first one.
  void changed(const Slot& slot);
  /// The slot's worker has a successor, which is ready.
  void replaced(const Slot& slot) noexcept {
    if (on_) size_.replaced(slot.at);
  }
  /// Something has happened in the slots: more workers may be wanted.
  void reconsider() noexcept;
  /// Workers may be too many from now on.
  void watch() noexcept;
  /// The slot is about to get its first worker, and no call waits for it any more.
  bool is_unwanted(const Slot& slot) const noexcept;

 private:
  void call_waits(std::size_t waiting) noexcept override {
    if (waiting > covered_) reconsider();
  }
  ElasticSize::Demand demand() const noexcept;
  ElasticSize::Seen seen(const Slot& slot) const noexcept;
  bool wake(std::size_t count) noexcept;
  bool let_idle_ones_go();
  // Without the mutex.
  void grow();
  void look();

  PoolSlots& slots_;
  const bool on_;
  std::size_t least_;
  ElasticSize size_;
  std::size_t covered_ = 0;                    // calls that may wait before more workers are wanted
  bool posted_ = false;                        // grow() is about to be called
  std::unique_ptr<asio::steady_timer> timer_;  // until look(). Null: no more workers than `least_`
};

}}}  // namespace drover::v1::detail
