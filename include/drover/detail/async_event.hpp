#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/detail/home.hpp>

namespace drover::inline v1::detail {

/// One coroutine that waits. Completed once, by whichever comes first of the event and the cancellation; the completion
/// is posted to the coroutine's executor. Goes silently with that executor's context.
class Waiter : public Resident, public std::enable_shared_from_this<Waiter> {
 public:
  explicit Waiter(std::shared_ptr<Home> home) : home_(std::move(home)) {}
  virtual ~Waiter() = default;

  /// From any thread, any number of times; the first one counts.
  void complete(std::error_code ec) {
    const Home::Posting posting(*home_);
    if (done_ || home_->down()) return;
    done_ = true;
    result_ = ec;
    // The posted function owns the waiter now. Posted under the lock, so that the context can't go meanwhile.
    if (auto self = home_->move_out(*this)) post(std::static_pointer_cast<Waiter>(std::move(self)));
  }

  /// False if the context is gone; the waiter is then never completed.
  bool settle() {
    const auto held = home_->lock();
    if (home_->down()) return false;
    home_->move_in(shared_from_this());
    return true;
  }

 protected:
  std::error_code result() const noexcept { return result_; }

 private:
  virtual void post(std::shared_ptr<Waiter> self) = 0;

  std::shared_ptr<Home> home_;
  std::error_code result_;
  bool done_ = false;
};

template <class Handler>
class HandlerWaiter final : public Waiter {
 public:
  HandlerWaiter(std::shared_ptr<Home> home, Handler handler, const asio::any_io_executor& executor)
      : Waiter(std::move(home)), slot_(asio::get_associated_cancellation_slot(handler)) {
    pending_.emplace(std::move(handler), asio::prefer(executor, asio::execution::outstanding_work.tracked));
  }

  /// On the waiting coroutine's executor, once settled.
  void watch_cancellation() {
    if (!slot_.is_connected()) return;
    slot_.assign([weak = this->weak_from_this()](asio::cancellation_type type) {
      if (type == asio::cancellation_type::none) return;
      if (const auto waiter = weak.lock()) waiter->complete(asio::error::operation_aborted);
    });
  }

 private:
  struct Pending {
    Pending(Handler h, asio::any_io_executor w) : handler(std::move(h)), work(std::move(w)) {}
    Handler handler;
    asio::any_io_executor work;  // a context does not run out of work while someone waits on it
  };

  /// If it is dropped, because the context is going, so is the handler, whoever else still holds the waiter.
  struct Completion {
    explicit Completion(std::shared_ptr<HandlerWaiter> w) noexcept : waiter(std::move(w)) {}
    Completion(Completion&&) noexcept = default;
    Completion& operator=(Completion&&) = delete;
    ~Completion() {
      if (waiter && !Home::Posting::postpone(waiter, let_go)) let_go(waiter.get());
    }
    void operator()() { std::exchange(waiter, nullptr)->finish(); }
    static void let_go(void* dropped) noexcept { static_cast<HandlerWaiter*>(dropped)->pending_.reset(); }

    std::shared_ptr<HandlerWaiter> waiter;
  };

  void post(std::shared_ptr<Waiter> self) override {
    asio::post(pending_->work, Completion(std::static_pointer_cast<HandlerWaiter>(std::move(self))));
  }

  void finish() {
    // The slot is touched only here and in its own handler, both on the coroutine's executor.
    if (slot_.is_connected()) slot_.clear();
    std::optional<Pending> pending = std::exchange(pending_, std::nullopt);
    std::move(pending->handler)(result());
  }

  void evict() noexcept override { pending_.reset(); }

  asio::associated_cancellation_slot_t<Handler> slot_;
  std::optional<Pending> pending_;
};

/// Happens once; any number of coroutines may wait for it, on any executors, before and after. All members from any
/// thread. The event and the contexts of those that wait may go in any order.
class AsyncEvent : public std::enable_shared_from_this<AsyncEvent> {
 public:
  bool is_set() const {
    const std::lock_guard held(mutex_);
    return set_;
  }

  void set() {
    std::vector<std::weak_ptr<Waiter>> waiters;
    {
      const std::lock_guard held(mutex_);
      set_ = true;
      waiters.swap(waiters_);
    }
    for (const auto& weak : waiters)
      if (const auto waiter = weak.lock()) waiter->complete({});
  }

  enum class Resume { at_once, posted };

  /// Ends with operation_aborted if it is cancelled, which leaves the event and its other waiters as they are. If it is
  /// set already this comes back at once, or else after what its executor was given before.
  static asio::awaitable<void> wait(std::shared_ptr<AsyncEvent> event, Resume resume = Resume::at_once) {
    if (resume == Resume::at_once && event->is_set()) co_return;
    Initiation initiation{std::move(event)};
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::error_code)>(std::move(initiation),
                                                                                        asio::use_awaitable);
  }

 private:
  struct Initiation {
    std::shared_ptr<AsyncEvent> event;

    template <class Handler>
    void operator()(Handler handler) {
      const asio::any_io_executor executor = asio::get_associated_executor(handler, asio::any_io_executor{});
      const auto waiter = std::make_shared<HandlerWaiter<Handler>>(
          Home::of(asio::query(executor, asio::execution::context)), std::move(handler), executor);
      if (!waiter->settle()) return;
      waiter->watch_cancellation();
      event->add(waiter);
    }
  };

  void add(const std::shared_ptr<Waiter>& waiter) {
    {
      const std::lock_guard held(mutex_);
      if (!set_) {
        // Those that were cancelled stay behind as empty entries; clear them out before the list would grow.
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
  std::vector<std::weak_ptr<Waiter>> waiters_;
};

}  // namespace drover::inline v1::detail
