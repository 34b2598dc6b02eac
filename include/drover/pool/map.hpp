#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/pool/detail/call/async_call.hpp>
#include <drover/pool/detail/call/map_window.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 {

struct MapOptions {
  /// How many items are in work or wait for the reader. 0: as many as keep all workers busy.
  std::size_t in_flight = 0;
  /// Results come in the order of the inputs. Otherwise in the order in which they are ready.
  bool ordered = false;
  /// Of each call. A full queue does not refuse them, see CallOptions::when_full.
  CallOptions call{};
  /// Once an item has failed, no further one begins. With its result the others are cancelled, and no further result
  /// comes.
  bool stop_on_error = false;
};

/// One input of a map and what became of it.
template <class R, class Input>
class MapResult {
 public:
  MapResult(std::size_t number, Input item) : index(number), input(std::move(item)) {}

  std::size_t index;           ///< of the input, from 0
  Input input;                 ///< what the range gave
  std::exception_ptr error{};  ///< null if the call has succeeded

  bool ok() const noexcept { return error == nullptr; }
  /// *Errors:* that of this item's call.
  decltype(auto) value() {
    if (error) std::rethrow_exception(error);
    if constexpr (!std::is_void_v<R>) return (*value_);
  }

 private:
  template <class, std::ranges::view>
  friend class Map;

  struct Nothing {};
  using Value = std::conditional_t<std::is_void_v<R>, Nothing, R>;
  std::optional<Value> value_;
};

/// The results of WorkerPool::map(). Move-only. Destroying it cancels what is in work.
///
/// *Threads:* one at a time. *Lifetime:* a range that was passed as an lvalue, and what its items refer to, must live
/// as long as the map.
template <class R, std::ranges::view Range>
class [[nodiscard]] Map {
  static_assert(std::is_void_v<R> || std::is_default_constructible_v<R>,
                "the results of a map have to be default-constructible: a call that fails has one, too");
  static_assert(
      !detail::refers_to_message<R>,
      "the results of a map can't be or contain views: what they view is gone; use std::string or std::vector");

 public:
  using Input = std::ranges::range_value_t<Range>;
  using Result = MapResult<R, Input>;

  Map(std::shared_ptr<detail::Dispatcher> dispatcher, MapOptions options, std::string routine, Range range,
      detail::MapEncoder<Input> encode)
      : work_(std::make_shared<Work>(std::move(dispatcher), std::move(options), std::move(routine), std::move(range),
                                     std::move(encode))) {
    work_->fill();
  }
  Map(Map&&) noexcept = default;
  Map& operator=(Map&& other) noexcept {
    Map(std::move(other)).work_.swap(work_);
    return *this;
  }
  ~Map() {
    if (work_) work_->abandon();
  }

  /// The next result; nullopt once all have come.
  ///
  /// *Errors:* an exception of the range, after the results of all inputs before it; std::logic_error if another next()
  /// waits. A call that fails is no error of next(): see MapResult::value().
  /// *Cancellation:* cancels what is in work, and throws operation_aborted. So does a next() whose map is destroyed.
  asio::awaitable<std::optional<Result>> next() {
    if (!work_) throw std::logic_error("next() on a map that was moved from");
    return next(work_);
  }

 private:
  struct Work;

  static asio::awaitable<std::optional<Result>> next(std::shared_ptr<Work> work);

  std::shared_ptr<Work> work_;
};

/// Reads the range and makes the calls, on the thread of its reader.
template <class R, std::ranges::view Range>
struct Map<R, Range>::Work {
  using Item = detail::MapItem<Result>;

  Work(std::shared_ptr<detail::Dispatcher> of, MapOptions map_options, std::string name, Range items,
       detail::MapEncoder<Input> encoder)
      : dispatcher(std::move(of)),
        options(std::move(map_options)),
        routine(std::move(name)),
        range(std::move(items)),
        encode(std::move(encoder)),
        window(std::make_shared<detail::MapWindow>(options.ordered, options.stop_on_error)) {
    options.call.when_full = WhenFull::wait;
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  ~Work() { window->close(); }

  void abandon() noexcept {
    abandoned = true;
    window->close();
  }

  /// Begins calls while there is room.
  void fill() {
    if (over) return;
    const std::size_t most = options.in_flight != 0 ? options.in_flight : detail::calls_to_keep_busy(dispatcher);
    try {
      while (window->has_room(most)) {
        if (!at)
          at.emplace(std::ranges::begin(range));
        else
          ++*at;
        if (*at == std::ranges::end(range)) {
          over = true;
          return;
        }
        begin(static_cast<Input>(**at));
      }
    } catch (...) {
      over = true;
      failure = std::current_exception();
    }
  }

  void begin(Input input) {
    auto item = std::make_shared<Item>(taken++, std::move(input));
    if (!detail::has_context(dispatcher)) {  // no call can end there
      item->result.error = detail::lost_context();
      window->add(item);
      return window->ended(std::move(item), true);
    }
    const auto write = [&](Encoder& out, detail::FrameBody& body) { encode.write(item->result.input, out, body); };
    auto call =
        detail::send_call(dispatcher, options.call, routine, detail::ArgumentWriter::of(write),
                          {.declaration = encode.declaration, .takes_descriptors = detail::carries_descriptors<R>()});
    item->call = call.call();
    window->add(item);
    detail::complete_with<R>(std::move(call), End{window, std::move(item)}, detail::executor_of(dispatcher));
  }

  /// The completion handler of a call. If its context is destroyed, it is destroyed unused.
  class End {
   public:
    End(std::shared_ptr<detail::MapWindow> to, std::shared_ptr<Item> of)
        : window_(std::move(to)), item_(std::move(of)) {}
    End(End&&) noexcept = default;
    End& operator=(End&&) = delete;
    ~End() {
      if (!item_) return;
      item_->result.error = detail::lost_context();
      window_->ended(std::move(item_), true);
    }

    void operator()(std::exception_ptr thrown)
      requires std::is_void_v<R>
    {
      item_->result.error = std::move(thrown);
      item_->result.value_.emplace();
      end();
    }
    void operator()(std::exception_ptr thrown, typename Result::Value value)
      requires(!std::is_void_v<R>)
    {
      item_->result.error = std::move(thrown);
      item_->result.value_.emplace(std::move(value));
      end();
    }

   private:
    void end() {
      const bool failed = !item_->result.ok();
      window_->ended(std::move(item_), failed);
    }

    std::shared_ptr<detail::MapWindow> window_;
    std::shared_ptr<Item> item_;
  };

  const std::shared_ptr<detail::Dispatcher> dispatcher;
  MapOptions options;
  const std::string routine;
  Range range;
  detail::MapEncoder<Input> encode;
  const std::shared_ptr<detail::MapWindow> window;
  std::optional<std::ranges::iterator_t<Range>> at;
  std::size_t taken = 0;
  bool over = false;           // the range has no further input
  bool abandoned = false;      // the map is destroyed
  std::exception_ptr failure;  // of the range
};

template <class R, std::ranges::view Range>
asio::awaitable<std::optional<typename Map<R, Range>::Result>> Map<R, Range>::next(std::shared_ptr<Work> work) {
  for (;;) {
    work->fill();
    const std::shared_ptr<detail::MapItemBase> ended = work->window->take();
    if (ended) {
      Result result = std::move(static_cast<typename Work::Item&>(*ended).result);
      if (!result.ok() && work->options.stop_on_error)
        work->window->close();
      else
        work->fill();  // the workers go on while the reader looks at this one
      co_return std::move(result);
    }
    if (work->abandoned) detail::throw_aborted();
    if (work->window->size() == 0) {
      if (work->failure) std::rethrow_exception(std::exchange(work->failure, nullptr));
      co_return std::nullopt;
    }
    asio::awaitable<bool> wait = detail::await_map(work->window);
    const bool cancelled = co_await std::move(wait);
    if (cancelled) {
      work->window->close();
      detail::throw_aborted();
    }
  }
}

}}  // namespace drover::v1
