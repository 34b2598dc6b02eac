#pragma once

#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/post_untracked.hpp>

namespace drover { inline namespace v1 { namespace detail {

template <class Handler>
class HandlerWaiter final : public Waiter {
 public:
  /// `work` tracks work on the waiting coroutine's executor. Nothing can fail once the handler has been moved.
  HandlerWaiter(std::shared_ptr<ContextRegistry> registry, Handler handler, asio::any_io_executor work)
      : Waiter(std::move(registry)), slot_(asio::get_associated_cancellation_slot(handler)) {
    pending_.emplace(std::move(handler), std::move(work));
  }

  /// Completes at once, on the waiting coroutine's executor, after forget().
  void fail(std::error_code ec) { finish(ec); }

  /// On the waiting coroutine's executor, after add_to_registry().
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
    asio::any_io_executor work;  // keeps the context from running out of work during the wait
  };

  /// If the completion is dropped because the context is being destroyed, it destroys the handler as well, even if the
  /// waiter has other owners.
  struct Completion {
    explicit Completion(std::shared_ptr<HandlerWaiter> w) noexcept : waiter(std::move(w)) {}
    Completion(Completion&&) noexcept = default;
    Completion& operator=(Completion&&) = delete;
    ~Completion() {
      if (waiter && !ContextRegistry::PostScope::postpone(waiter, drop)) drop(waiter.get());
    }
    void operator()() {
      const auto finished = std::exchange(waiter, nullptr);
      finished->finish(finished->result());
    }
    static void drop(void* dropped) noexcept { static_cast<HandlerWaiter*>(dropped)->pending_.reset(); }

    std::shared_ptr<HandlerWaiter> waiter;
  };

  void post(std::shared_ptr<Waiter> self) override {
    post_untracked(pending_->work, Completion(std::static_pointer_cast<HandlerWaiter>(std::move(self))));
  }

  void finish(std::error_code ec) {
    // Only this function and the slot's own handler use the slot, both on the coroutine's executor.
    if (slot_.is_connected()) slot_.clear();
    std::optional<Pending> pending = std::exchange(pending_, std::nullopt);
    std::move(pending->handler)(ec);
  }

  void context_destroyed() noexcept override { pending_.reset(); }

  asio::associated_cancellation_slot_t<Handler> slot_;
  std::optional<Pending> pending_;
};

struct AsyncEvent::Initiation {
  std::shared_ptr<AsyncEvent> event;

  template <class Handler>
  void operator()(Handler handler) {
    const asio::any_io_executor executor = asio::get_associated_executor(handler, asio::any_io_executor{});
    std::shared_ptr<HandlerWaiter<Handler>> waiter;
    try {
      asio::any_io_executor work = asio::prefer(executor, asio::execution::outstanding_work.tracked);
      auto registry = ContextRegistry::of(asio::query(executor, asio::execution::context));
      waiter = std::make_shared<HandlerWaiter<Handler>>(std::move(registry), std::move(handler), std::move(work));
      if (!waiter->add_to_registry()) return;
      waiter->watch_cancellation();
      event->add(waiter);
    } catch (...) {
      // An exception of an initiation destroys the coroutine, with some versions of Asio the program. To complete at
      // once, on the coroutine's executor, is what asio::dispatch() does.
      if (!waiter) return std::move(handler)(make_error_code(asio::error::no_memory));
      if (waiter->forget()) waiter->fail(asio::error::no_memory);
    }
  }
};

DROVER_INLINE asio::awaitable<void> AsyncEvent::wait(std::shared_ptr<AsyncEvent> event, Resume resume) {
  if (resume == Resume::at_once && event->is_set()) co_return;
  Initiation initiation{std::move(event)};
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::error_code)>(std::move(initiation),
                                                                                      asio::use_awaitable);
}

}}}  // namespace drover::v1::detail
