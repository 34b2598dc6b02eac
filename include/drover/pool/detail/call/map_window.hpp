#pragma once

#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/async_event.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/wire/codec.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;

/// One input of a map, from the beginning of its call until the reader has it.
struct MapItemBase {
  explicit MapItemBase(std::size_t number) noexcept : index(number) {}
  MapItemBase(const MapItemBase&) = delete;
  MapItemBase& operator=(const MapItemBase&) = delete;
  virtual ~MapItemBase() = default;

  const std::size_t index;
  /// To cancel it. A Call that is held is not used for another call meanwhile, see Dispatcher::recycle().
  std::shared_ptr<Call> call;
};

template <class Result>
struct MapItem final : MapItemBase {
  template <class Input>
  MapItem(std::size_t number, Input input) : MapItemBase(number), result(number, std::move(input)) {}

  Result result;
};

/// How the input of a map becomes the argument of a call.
template <class Input>
struct MapEncoder {
  void (*write)(const Input& input, Encoder& out, FrameBody& body);
  const char* declaration = nullptr;  // see Call
};

/// The items of a map between its calls and its reader. Calls end on any thread.
class MapWindow {
 public:
  MapWindow(bool ordered, bool stop_on_error) noexcept : ordered_(ordered), stop_on_error_(stop_on_error) {}

  /// Items that the reader has not taken.
  std::size_t size() const {
    const std::lock_guard held(mutex_);
    return running_.size() + ended_.size();
  }
  /// Another call may begin, of `most` items that the reader has not taken.
  bool has_room(std::size_t most) const {
    const std::lock_guard held(mutex_);
    return !begins_no_more_ && running_.size() + ended_.size() < most;
  }
  void add(const std::shared_ptr<MapItemBase>& item) {
    const std::lock_guard held(mutex_);
    running_.emplace(item->index, item);
  }
  /// Its call has ended.
  void ended(std::shared_ptr<MapItemBase> item, bool failed) noexcept;
  /// The next item for the reader. Null if there is none yet.
  std::shared_ptr<MapItemBase> take();
  /// Nothing is begun or taken any more: cancels what runs, drops what has ended, and wakes the reader.
  void close() noexcept;

  /// Set when an item has ended. Null if take() would return one. Throws std::logic_error if somebody waits already.
  std::shared_ptr<AsyncEvent> begin_wait();
  bool closed() const {
    const std::lock_guard held(mutex_);
    return closed_;
  }
  void end_wait() noexcept;

 private:
  bool has_next() const noexcept { return !ended_.empty() && (!ordered_ || ended_.begin()->first == next_); }

  const bool ordered_, stop_on_error_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::shared_ptr<MapItemBase>> running_;  // by index
  std::map<std::size_t, std::shared_ptr<MapItemBase>> ended_;    // without an order: by the order of their ends
  std::size_t next_ = 0;  // of an ordered map: the index that the reader gets next
  std::size_t ends_ = 0;
  bool begins_no_more_ = false;
  bool closed_ = false;
  std::shared_ptr<AsyncEvent> waiter_;
};

/// Waits until an item has ended. True: the reader was cancelled meanwhile, or the map destroyed.
asio::awaitable<bool> await_map(std::shared_ptr<MapWindow> window);
/// So many that no worker has to wait for its next call.
std::size_t calls_to_keep_busy(const std::shared_ptr<Dispatcher>& dispatcher);
/// False once the context of the pool is destroyed.
bool has_context(const std::shared_ptr<Dispatcher>& dispatcher);
/// The failure of a call whose io_context is destroyed.
std::exception_ptr lost_context() noexcept;
[[noreturn]] void throw_aborted();

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/call/map_window.ipp>
#endif
