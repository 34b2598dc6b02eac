#pragma once

#include <drover/detail/platform.hpp>

#include <memory>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace drover { inline namespace v1 {

/// Sends items to the caller while a routine runs. The routine takes it as a parameter, usually the last one, and is
/// called by stream():
///
///     routines.add("grep", [](std::string pattern, fs::path file, drover::Sink<Match>& out)
///                              -> asio::awaitable<std::uint64_t> { ... co_await out.send(match); ... });
///
/// The caller takes items at its own pace. Once it has left 512 KiB of them, send() and write() wait, so the routine
/// stops as well. All items arrive before the result of the routine. A copy refers to the same call.
///
/// *Errors:* std::logic_error if the call has ended, or if another send() waits; Error with Errc::message_too_large for
/// an item that is larger than WorkerOptions::max_message_size. The caller has not got that item.
/// *Cancellation:* once the call is cancelled, write() throws operation_aborted, as send() does where it waits. So they
/// do when the parent has died. An item that waited is not sent then.
/// *Threads:* the main thread of the worker.
template <class T>
class Sink {
  static_assert(!detail::carries_descriptors<T>(),
                "an item can't have descriptors or shared memory: return them as the result");

 public:
  using value_type = T;

  explicit Sink(std::shared_ptr<detail::StreamPort> port) noexcept : port_(std::move(port)) {}

  /// The item is encoded before send() returns. The awaitable only waits for the caller.
  [[nodiscard]] asio::awaitable<void> send(const T& item) {
    encode(port_->begin_item(), item);
    return port_->send();
  }
  [[nodiscard]] asio::awaitable<void> send(T&& item) {
    encode(port_->begin_item(), std::move(item));
    return port_->send();
  }

  /// The same for a plain function: blocks until there is room for the item, which leaves within 100 us. Only for the
  /// routine itself.
  void write(const T& item) {
    encode(port_->begin_item(), item);
    port_->write();
  }
  void write(T&& item) {
    encode(port_->begin_item(), std::move(item));
    port_->write();
  }

  /// Progress: the caller gets the last value that has come, and misses those that newer ones have replaced. It never
  /// waits.
  void latest(const T& value) {
    encode(port_->begin_latest(), value);
    port_->latest();
  }

 private:
  template <class Given>
  static void encode(detail::FrameBody& body, Given&& item) {
    Encoder encoder(body.buffer());
    detail::put_as<T>(encoder, body, std::forward<Given>(item));
  }

  std::shared_ptr<detail::StreamPort> port_;
};

}}  // namespace drover::v1
