#pragma once

#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/async_event.hpp>
#include <drover/detail/courier.hpp>
#include <drover/event.hpp>
#include <drover/timeout.hpp>

namespace drover::inline v1::detail {

/// Brings events to the user's on_event, in order and on the executor of the worker or pool that they are about. May be
/// told of them under locks and on any thread: the handler itself is not touched there.
class EventSink {
 public:
  using Handler = std::function<void(const Event&)>;

  /// Null if there is no handler.
  static std::shared_ptr<EventSink> create(const asio::any_io_executor& executor, Handler handler) {
    if (!handler) return nullptr;
    return std::make_shared<EventSink>(executor, std::move(handler));
  }

  EventSink(const asio::any_io_executor& executor, Handler handler)
      : courier_(Courier::create(executor)), handler_(std::make_shared<const Handler>(std::move(handler))) {}

  /// Without the memory for it the event is lost, and nothing else.
  void tell(Event event) noexcept {
    try {
      if (event.at == Clock::time_point{}) event.at = Clock::now();
      courier_->post([handler = handler_, event = std::move(event)] {
        try {
          (*handler)(event);
        } catch (...) {  // the handler's own affair, see WorkerOptions::on_event
        }
      });
    } catch (const std::bad_alloc&) {
    }
  }

  /// No more are told, not even those on their way. The handler may be at work on another thread yet.
  void close() noexcept { courier_->close(); }

  /// Returns when the handler has seen all that has been told until now, or never will; early if it is cancelled. With
  /// a bound, once that is over, the sink is closed.
  static asio::awaitable<void> all_told(std::shared_ptr<EventSink> sink, Timeout bound) {
    if (sink->courier_->idle()) co_return;  // nobody may run its context any more
    const auto told = std::make_shared<AsyncEvent>();
    sink->courier_->post([mark = std::make_shared<const Mark>(told)] {});
    std::optional<asio::steady_timer> limit;
    if (bound) {
      limit.emplace(co_await asio::this_coro::executor, *bound);
      limit->async_wait([sink](std::error_code ec) {
        if (!ec) sink->close();
      });
    }
    try {
      co_await AsyncEvent::wait(told);
    } catch (const std::system_error&) {  // cancelled
    }
  }

 private:
  /// Set when it goes, whether its turn has come or its queue has been dropped.
  struct Mark {
    explicit Mark(std::shared_ptr<AsyncEvent> event) noexcept : reached(std::move(event)) {}
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;
    ~Mark() { reached->set(); }
    const std::shared_ptr<AsyncEvent> reached;
  };

  const std::shared_ptr<Courier> courier_;
  const std::shared_ptr<const Handler> handler_;
};

}  // namespace drover::inline v1::detail
