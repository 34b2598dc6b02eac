#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/registry.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One coroutine that awaits an AsyncEvent. It is completed once, by the event or by its cancellation, whichever comes
/// first. The completion is posted to the coroutine's executor. It is dropped silently if that executor's context is
/// destroyed.
class Waiter : public ContextBound, public std::enable_shared_from_this<Waiter> {
 public:
  explicit Waiter(std::shared_ptr<ContextRegistry> registry) : registry_(std::move(registry)) {}
  virtual ~Waiter() = default;

  /// From any thread, any number of times; only the first call has an effect. Throws if there is no memory for the
  /// post. The waiter then continues to wait and may be completed later.
  void complete(std::error_code ec) {
    ContextRegistry::PostScope posting(*registry_);
    if (done_ || registry_->closed()) return;
    // The posted function then owns the waiter. The lock keeps the context from being destroyed during the post.
    auto self = registry_->remove(*this);
    done_ = true;
    result_ = ec;
    if (!self) return;
    try {
      post(std::static_pointer_cast<Waiter>(self));
    } catch (...) {
      posting.failed();
      done_ = false;
      registry_->add(std::move(self));
      throw;
    }
  }

  /// Registers the waiter with its context. Returns false if the context is destroyed; the waiter is then never
  /// completed.
  bool add_to_registry() {
    const auto held = registry_->lock();
    if (registry_->closed()) return false;
    registry_->add(shared_from_this());
    return true;
  }

  /// Reverses add_to_registry(). Returns false if the waiter has been completed, or its context is destroyed.
  bool forget() noexcept {
    std::shared_ptr<ContextBound> self;  // released after the lock
    const auto held = registry_->lock();
    if (std::exchange(done_, true)) return false;
    self = registry_->remove(*this);
    return self != nullptr;
  }

 protected:
  std::error_code result() const noexcept { return result_; }

 private:
  virtual void post(std::shared_ptr<Waiter> self) = 0;

  std::shared_ptr<ContextRegistry> registry_;
  std::error_code result_;
  bool done_ = false;
};

/// An event that is set once. Any number of coroutines may wait for it, on any executors, before and after that. All
/// members may be called from any thread. The event and the contexts of its waiters may be destroyed in any order.
class AsyncEvent : public std::enable_shared_from_this<AsyncEvent> {
 public:
  bool is_set() const {
    const std::lock_guard held(mutex_);
    return set_;
  }

  /// Throws std::bad_alloc if a waiter could not be completed. The next call completes it.
  void set() {
    if (complete_waiters() == Completed::some) throw std::bad_alloc();
  }

  /// Returns true once all waiters are completed. Returns false if there was not enough memory, or if another thread is
  /// completing them; call it again then.
  bool try_set() noexcept { return complete_waiters() == Completed::all; }

  enum class Resume { at_once, posted };

  /// Throws operation_aborted if it is cancelled, which affects neither the event nor its other waiters; no_memory or
  /// std::bad_alloc if there is not enough memory. If the event
  /// is already set, the wait ends at once, or with Resume::posted after everything that its executor was given before.
  static asio::awaitable<void> wait(std::shared_ptr<AsyncEvent> event, Resume resume = Resume::at_once);

 private:
  struct Initiation;
  enum class Completed { all, some, by_another };

  Completed complete_waiters() noexcept {
    std::vector<std::weak_ptr<Waiter>> waiters;
    {
      const std::lock_guard held(mutex_);
      set_ = true;
      if (completing_) return Completed::by_another;
      completing_ = true;
      waiters.swap(waiters_);
    }
    bool all = true;
    for (auto& weak : waiters) {
      try {
        if (const auto waiter = weak.lock()) waiter->complete({});
        weak.reset();
      } catch (...) {
        all = false;
      }
    }
    const std::lock_guard held(mutex_);
    completing_ = false;
    if (all) return Completed::all;
    waiters_.swap(waiters);  // waiters_ is empty: none are added once the event is set
    return Completed::some;
  }

  void add(const std::shared_ptr<Waiter>& waiter) {
    {
      const std::lock_guard held(mutex_);
      if (!set_) {
        // Cancelled waiters leave expired entries; erase these before the list would grow.
        if (waiters_.size() == waiters_.capacity())
          std::erase_if(waiters_, [](const auto& weak) { return weak.expired(); });
        waiters_.push_back(waiter);
        return;
      }
    }
    waiter->complete({});
  }

  mutable std::mutex mutex_;
  bool set_ = false;
  bool completing_ = false;
  std::vector<std::weak_ptr<Waiter>> waiters_;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/context/async_event.ipp>
#endif
