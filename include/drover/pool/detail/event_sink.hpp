#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/strand.hpp>
#include <drover/detail/context/when_due.hpp>
#include <drover/event.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls the user's on_event for each event, in order, on the executor of the worker or the pool. report() may be
/// called under locks and on any thread: it does not touch the handler.
class EventSink : public std::enable_shared_from_this<EventSink> {
 public:
  using Handler = std::function<void(const Event&)>;

  /// Null if there is no handler.
  static std::shared_ptr<EventSink> create(const asio::any_io_executor& executor, Handler handler) {
    if (!handler) return nullptr;
    return std::make_shared<EventSink>(executor, std::move(handler));
  }

  EventSink(const asio::any_io_executor& executor, Handler handler)
      : strand_(ContextStrand::create(executor)), handler_(std::make_shared<const Handler>(std::move(handler))) {}

  /// `event` has one element. Without the memory to post it, it is delivered with the next one.
  void report(std::list<Event> event) noexcept {
    if (event.front().at == Clock::time_point{}) event.front().at = Clock::now();
    {
      const std::lock_guard held(mutex_);
      if (closed_) return;
      queue_.splice(queue_.end(), event);
    }
    try {
      post();
    } catch (...) {
    }
  }

  /// Drops the events that have not been delivered. The handler may still be running on another thread.
  void close() noexcept {
    std::list<Event> dropped;
    {
      const std::lock_guard held(mutex_);
      closed_ = true;
      dropped.swap(queue_);
    }
    strand_->close();
  }

  /// Returns when the handler has seen all events that were reported so far, or never will; early if it is cancelled.
  /// `bound`: after that time the sink is closed.
  static asio::awaitable<void> all_delivered(std::shared_ptr<EventSink> sink, Timeout bound) {
    if (sink->idle()) co_return;  // nobody may run its context any more
    const auto delivered = std::make_shared<AsyncEvent>();
    sink->post(std::make_shared<const Mark>(delivered));
    std::optional<asio::steady_timer> limit;
    if (bound) {
      limit.emplace(co_await asio::this_coro::executor, *bound);
      when_due(*limit, [sink] { sink->close(); });
    }
    try {
      co_await AsyncEvent::wait(delivered);
    } catch (const std::system_error&) {  // cancelled
    }
  }

 private:
  /// Sets the event when it is destroyed, after its turn or with a dropped queue.
  struct Mark {
    explicit Mark(std::shared_ptr<AsyncEvent> event) noexcept : reached(std::move(event)) {}
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;
    ~Mark() { reached->set(); }
    const std::shared_ptr<AsyncEvent> reached;
  };

  bool idle() const {
    const std::lock_guard held(mutex_);
    return queue_.empty() && strand_->idle();
  }

  void post(std::shared_ptr<const Mark> mark = nullptr) {
    strand_->post([self = shared_from_this(), mark = std::move(mark)] { self->deliver(); });
  }

  void deliver() {
    std::size_t left = 0;
    {
      const std::lock_guard held(mutex_);
      left = queue_.size();
    }
    for (; left != 0; --left) {
      std::list<Event> event;
      {
        const std::lock_guard held(mutex_);
        if (queue_.empty()) return;  // closed meanwhile, or delivered by an earlier turn
        event.splice(event.begin(), queue_, queue_.begin());
      }
      try {
        (*handler_)(event.front());
      } catch (...) {  // ignored, see WorkerOptions::on_event
      }
    }
  }

  const std::shared_ptr<ContextStrand> strand_;
  const std::shared_ptr<const Handler> handler_;
  mutable std::mutex mutex_;
  std::list<Event> queue_;
  bool closed_ = false;
};

}}}  // namespace drover::v1::detail
