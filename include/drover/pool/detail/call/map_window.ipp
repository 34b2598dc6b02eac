#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/map_window.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE void MapWindow::ended(std::shared_ptr<MapItemBase> item, bool failed) noexcept {
  std::shared_ptr<AsyncEvent> waiter;
  {
    const std::lock_guard held(mutex_);
    if (failed && stop_on_error_) begins_no_more_ = true;
    auto node = running_.extract(item->index);
    if (node.empty()) return;  // cancelled
    node.mapped()->call.reset();
    if (!ordered_) node.key() = ends_++;
    ended_.insert(std::move(node));
    if (has_next()) waiter = waiter_;
  }
  if (waiter) (void)waiter->try_set();
}

DROVER_INLINE std::shared_ptr<MapItemBase> MapWindow::take() {
  const std::lock_guard held(mutex_);
  if (!has_next()) return nullptr;
  ++next_;
  return std::move(ended_.extract(ended_.begin()).mapped());
}

DROVER_INLINE void MapWindow::close() noexcept {
  std::map<std::size_t, std::shared_ptr<MapItemBase>> running, ended;
  std::shared_ptr<AsyncEvent> waiter;
  {
    const std::lock_guard held(mutex_);
    begins_no_more_ = closed_ = true;
    running.swap(running_);
    ended.swap(ended_);
    waiter = waiter_;
  }
  for (const auto& [index, item] : running) {
    try {
      PendingCall::cancel(item->call);
    } catch (...) {  // no memory: the call goes on, and its result is dropped
    }
  }
  if (waiter) (void)waiter->try_set();
}

DROVER_INLINE std::shared_ptr<AsyncEvent> MapWindow::begin_wait() {
  auto event = std::make_shared<AsyncEvent>();
  const std::lock_guard held(mutex_);
  if (waiter_) throw std::logic_error("a map has one reader: another next() is waiting");
  if (has_next()) return nullptr;
  return waiter_ = std::move(event);
}

DROVER_INLINE void MapWindow::end_wait() noexcept {
  std::shared_ptr<AsyncEvent> event;
  const std::lock_guard held(mutex_);
  event.swap(waiter_);
}

struct MapWait {
  ~MapWait() { window.end_wait(); }
  MapWindow& window;
};

DROVER_INLINE asio::awaitable<bool> await_map(std::shared_ptr<MapWindow> window) {
  const std::shared_ptr<AsyncEvent> event = window->begin_wait();
  if (!event) co_return false;
  const MapWait wait{*window};
  try {
    co_await AsyncEvent::wait(event);
  } catch (const std::system_error& error) {
    if (error.code() != asio::error::operation_aborted) throw;
    co_return true;
  }
  co_return window->closed();
}

DROVER_INLINE std::size_t calls_to_keep_busy(const std::shared_ptr<Dispatcher>& dispatcher) {
  if (!dispatcher) return 1;
  const auto held = dispatcher->lock();
  return std::max<std::size_t>(dispatcher->calls_to_keep_busy(), 2);
}

DROVER_INLINE bool has_context(const std::shared_ptr<Dispatcher>& dispatcher) {
  if (!dispatcher) return true;  // the call fails by itself
  const auto held = dispatcher->lock();
  return dispatcher->executor().has_value();
}

DROVER_INLINE std::exception_ptr lost_context() noexcept {
  try {
    return std::make_exception_ptr(Error(Errc::connection_lost, "the io_context of the pool is destroyed"));
  } catch (...) {  // no memory for the text
    return std::current_exception();
  }
}

DROVER_INLINE void throw_aborted() { std::rethrow_exception(aborted()); }

}}}  // namespace drover::v1::detail
