#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <utility>

#include <drover/detail/context/async_event.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// The first start of a pool: adds its slots and starts a worker in each, a limited number at a time. It is over when
/// all workers are ready, or one has failed. Guarded by the dispatcher's mutex.
class FirstStart {
 public:
  /// `most`: workers that start at a time.
  FirstStart(PoolSlots& slots, std::size_t size, std::size_t most) : slots_(slots), size_(size), most_(most) {}
  FirstStart(const FirstStart&) = delete;
  FirstStart& operator=(const FirstStart&) = delete;
  virtual ~FirstStart() = default;

  // ---- without the mutex; virtual for start_pool(), see PoolImpl ----------------------------------------------------

  /// Null if workers may be started. Otherwise it is to be awaited.
  inline virtual std::shared_ptr<AsyncEvent> await_fork_server();
  /// Null if another worker may be started now. Otherwise it is to be awaited.
  inline virtual std::shared_ptr<AsyncEvent> await_room();
  /// Adds the slot and starts its worker. False if a worker has failed to start.
  inline virtual bool start_worker(std::size_t at);
  /// Adds the dormant slots of an elastic pool, once all others have been added. Calls user code.
  inline virtual void add_dormant_slots();
  /// Set when the start is over.
  const std::shared_ptr<AsyncEvent>& settled() const noexcept { return settled_; }
  /// Workers that exit are replaced from now on. Returns the first failure of a start.
  inline virtual std::exception_ptr end();

  // ---- with it ------------------------------------------------------------------------------------------------------

  bool under_way() const noexcept { return under_way_; }
  void one_is_ready() {
    if (++ready_ == size_) settled_->set();
    make_room();
  }
  void one_failed(std::exception_ptr cause) {
    if (!failure_) failure_ = std::move(cause);
    settled_->set();
    make_room();
  }

 private:
  void make_room() {
    if (!room_) return;
    room_->set();  // throws without memory, and is tried again with the next worker
    room_.reset();
  }

  PoolSlots& slots_;
  const std::size_t size_;
  const std::size_t most_;
  bool under_way_ = true;
  std::size_t ready_ = 0;
  std::exception_ptr failure_;
  const std::shared_ptr<AsyncEvent> settled_ = std::make_shared<AsyncEvent>();
  std::shared_ptr<AsyncEvent> room_;  // null: nobody waits for it
};

}}}  // namespace drover::v1::detail
