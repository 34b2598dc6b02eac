#pragma once

#include <drover/detail/platform.hpp>

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/what_of.hpp>
#include <drover/wire/codec.hpp>
#include <drover/worker/detail/bad_arguments.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace drover { inline namespace v1 {

/// Takes the items that the caller sends while a routine runs. The routine takes it as a parameter, usually the last
/// one, and is called by stream():
///
///     routines.add("sum", [](drover::Source<int>& in) -> asio::awaitable<long> {
///       long sum = 0;
///       for (;;) {
///         const std::optional<int> item = co_await in.next();
///         if (!item) co_return sum;
///         sum += *item;
///       }
///     });
///
/// The caller may be 512 KiB of items ahead, and waits beyond that. A copy refers to the same call.
///
/// *Errors:* std::logic_error if the call has ended, or if another next() waits. For an item that is no T, the call
/// ends with Errc::bad_arguments unless the routine catches the exception.
/// *Cancellation:* once the call is cancelled, read() throws operation_aborted, as next() does where it waits. So they
/// do when the parent has died.
/// *Threads:* the main thread of the worker.
template <class T>
class Source {
  static_assert(
      !detail::refers_to_message<T>,
      "the items of a Source can't be or contain views: what they view is gone with the next item; use std::string or "
      "std::vector");

  static_assert(!detail::carries_descriptors<T>(),
                "an item can't have descriptors or shared memory: pass them as arguments");

 public:
  using value_type = T;

  explicit Source(std::shared_ptr<detail::StreamPort> port) noexcept : port_(std::move(port)) {}

  /// The next item; nullopt once the caller has finished.
  asio::awaitable<std::optional<T>> next() {
    (void)port_->look();  // its exceptions
    return next(port_);
  }

  /// The same for a plain function: blocks until there is an item. Only for the routine itself.
  std::optional<T> read() {
    for (;;) {
      const auto next = port_->look_here();
      if (next == detail::StreamPort::Next::item) return take(*port_, detail::StreamPort::Flush::now);
      if (next == detail::StreamPort::Next::end) return std::nullopt;
      port_->wait_here();
    }
  }

 private:
  static asio::awaitable<std::optional<T>> next(std::shared_ptr<detail::StreamPort> port) {
    for (;;) {
      const auto next = port->look();
      if (next == detail::StreamPort::Next::item) co_return take(*port, detail::StreamPort::Flush::later);
      if (next == detail::StreamPort::Next::end) co_return std::nullopt;
      asio::awaitable<void> wait = detail::StreamPort::wait(port);
      co_await std::move(wait);
    }
  }

  static std::optional<T> take(detail::StreamPort& port, detail::StreamPort::Flush flush) {
    std::optional<T> item;
    try {
      Decoder decoder(port.front(), detail::spare_memory(port.limit()));
      item.emplace(decoder.get<T>());
      decoder.finish();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {  // a user's codec may throw any exception
      const std::string what = detail::what_of(e);
      port.pop(flush);
      throw detail::BadArguments("an item: " + what);
    }
    port.pop(flush);
    return item;
  }

  std::shared_ptr<detail::StreamPort> port_;
};

}}  // namespace drover::v1
