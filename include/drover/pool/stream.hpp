#pragma once

#include <drover/detail/platform.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/call_stream.hpp>
#include <drover/pool/detail/call/typed_call.hpp>
#include <drover/pool/options.hpp>
#include <drover/routine.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>

namespace drover { inline namespace v1 {

/// A call whose routine sends items while it runs (`Out`, by a drover::Sink), takes some (`In`, by a drover::Source),
/// or both. stream() begins it.
///
///     drover::Stream<std::uint64_t, Match> found = pool.stream<std::uint64_t, Match>("grep", pattern, file);
///     for (;;) {
///       const std::optional<Match> match = co_await found.next();
///       if (!match) break;
///       print(*match);
///     }
///     std::uint64_t lines = co_await found.result();
///
/// Neither side buffers more than 512 KiB of items, and one item: a reader that stops stops the routine, and a routine
/// that stops stops send(). Move-only. Destroying it cancels the call.
///
/// It is a call in all other respects: CallOptions::deadline covers it as a whole, a stop drains or cancels it, and
/// CallOptions::retry makes it again only if no item has come or gone. If it fails, next() first returns the items that
/// had arrived, and then throws the failure, as send() and result() do.
///
/// *Threads:* one may read (next(), result()) while another one writes (send(), finish()). cancel() is for any.
template <class R, class Out = void, class In = void>
class [[nodiscard]] Stream {
  static_assert(!std::is_void_v<Out> || !std::is_void_v<In>, "a call without items is made by call()");
  static_assert(!detail::refers_to_message<R> && !detail::refers_to_message<Out>,
                "items and results can't be or contain views: what they view is gone; use std::string or std::vector");
  static_assert(!detail::carries_descriptors<R>() && !detail::carries_descriptors<Out>() &&
                    !detail::carries_descriptors<In>(),
                "items of a stream, and its result, can't have descriptors or shared memory: use call()");

 public:
  static constexpr std::uint8_t flags =
      (std::is_void_v<Out> ? 0 : detail::items_out_flag) | (std::is_void_v<In> ? 0 : detail::items_in_flag);

  /// Empty: everything fails with std::logic_error.
  Stream() = default;
  explicit Stream(std::shared_ptr<detail::CallStream> stream) noexcept : stream_(std::move(stream)) {}
  Stream(Stream&&) noexcept = default;
  Stream& operator=(Stream&& other) noexcept {
    Stream taken(std::move(other));
    stream_.swap(taken.stream_);
    return *this;
  }
  ~Stream() {
    if (stream_) stream_->abandon();
  }

  /// The next item; nullopt when the routine has ended and all items have been taken. Of the values of Sink::latest()
  /// it returns the last one, once no item is left.
  ///
  /// *Errors:* that of the call, after the items that had arrived. Errc::bad_arguments for an item that is no Out; the
  /// stream goes on. std::logic_error if another next() or result() waits.
  /// *Cancellation:* ends the wait with operation_aborted. No item is lost, and the stream goes on.
  template <class T = Out>
    requires(!std::is_void_v<T>)
  [[nodiscard]] asio::awaitable<std::optional<T>> next() {
    return next_item<T>(Turn(stream()));
  }

  /// Sends an item, which is encoded before send() returns. The awaitable waits until the routine has room for it.
  /// False: the routine has returned and takes no more items.
  ///
  /// *Errors:* that of the call. Errc::message_too_large. std::logic_error after finish(), and if another send() waits.
  /// *Cancellation:* ends the wait with operation_aborted: an item that had to wait is not sent. If the coroutine was
  /// cancelled before, the item is sent where there is room, although operation_aborted is thrown. The stream goes on.
  template <class T = In>
    requires(!std::is_void_v<In>)
  [[nodiscard]] asio::awaitable<bool> send(T&& item) {
    static_assert(detail::passing<In, T>() != detail::Passing::refused, "this is no item of the stream");
    detail::FrameBody& body = stream()->begin_item();
    Encoder encoder(body.buffer());
    detail::put_as<In>(encoder, body, std::forward<T>(item));
    return stream_->send();
  }
  /// No more items: Source::next() returns nullopt once all have been taken. A second one does nothing.
  void finish()
    requires(!std::is_void_v<In>)
  {
    stream()->finish();
  }

  /// The result of the routine. Items that have not been taken are dropped, also those that are still to come. Once.
  ///
  /// *Errors:* as with call(). std::logic_error if it was taken before, or if a next() waits.
  /// *Cancellation:* ends the wait with operation_aborted. The stream goes on.
  [[nodiscard]] asio::awaitable<R> result() {
    Turn turn(stream());
    stream_->discard();
    return take_result(std::move(turn));
  }

  /// Cancels the call, see call(). What waits fails with operation_aborted.
  void cancel() noexcept {
    if (stream_) stream_->cancel();
  }

 private:
  /// Of the reader.
  class Turn {
   public:
    explicit Turn(std::shared_ptr<detail::CallStream> stream) : stream_(std::move(stream)) { stream_->begin_reading(); }
    Turn(Turn&&) noexcept = default;
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (stream_) stream_->end_reading();
    }
    const std::shared_ptr<detail::CallStream>& stream() const noexcept { return stream_; }

   private:
    std::shared_ptr<detail::CallStream> stream_;
  };

  const std::shared_ptr<detail::CallStream>& stream() const {
    if (!stream_) throw std::logic_error("this Stream is empty (default-constructed or moved from)");
    return stream_;
  }

  template <class T>
  static asio::awaitable<std::optional<T>> next_item(Turn turn) {
    detail::CallStream& stream = *turn.stream();
    if (!stream.has_item()) {
      asio::awaitable<bool> wait = detail::CallStream::wait_for_item(turn.stream());
      const bool found = co_await std::move(wait);
      if (!found) co_return std::nullopt;
    }
    std::optional<T> item;
    try {
      Decoder decoder(stream.front(), stream.spare_memory());
      item.emplace(decoder.get<T>());
      decoder.finish();
    } catch (...) {
      stream.pop();
      stream.throw_undecodable("an item");
    }
    stream.pop();
    co_return std::move(item);
  }

  static asio::awaitable<R> take_result(Turn turn) {
    detail::CallStream& stream = *turn.stream();
    asio::awaitable<void> wait = detail::CallStream::wait_for_end(turn.stream());
    co_await std::move(wait);
    const detail::ByteBuffer bytes = stream.take_result();
    if constexpr (!std::is_void_v<R>) {
      std::optional<R> result;
      try {
        Decoder decoder(bytes.view(), stream.spare_memory());
        result.emplace(decoder.get<R>());
        decoder.finish();
      } catch (...) {
        stream.throw_undecodable("the result");
      }
      co_return std::move(*result);
    }
  }

  std::shared_ptr<detail::CallStream> stream_;
};

namespace detail {

template <class S, class... A>
S begin_stream_of(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options, RoutineName routine,
                  A&&... arguments) {
  static_assert(!(std::is_same_v<std::remove_cvref_t<A>, CallOptions> || ...),
                "CallOptions come before the routine's name: stream(options, name, arguments...)");
  const auto write = [&](Encoder& out, FrameBody& body) {
    (detail::put_argument(out, body, std::forward<A>(arguments)), ...);
  };
  return S(begin_stream(dispatcher, options, routine, ArgumentWriter::of(write), S::flags));
}

/// The items of a parameter: void if it is no Side, which is Sink or Source.
template <template <class> class Side, class P>
struct ItemsOf : std::type_identity<void> {};
template <template <class> class Side, class T>
struct ItemsOf<Side, Side<T>> : std::type_identity<T> {};
/// Those of a routine with these parameters.
template <template <class> class Side, class... P>
struct ItemsAmong : std::type_identity<void> {};
template <template <class> class Side, class P, class... Rest>
struct ItemsAmong<Side, P, Rest...> : std::conditional_t<std::is_same_v<P, Side<typename ItemsOf<Side, P>::type>>,
                                                         ItemsOf<Side, P>, ItemsAmong<Side, Rest...>> {};

/// The type of a routine without its Sink and its Source: what a caller passes.
template <class Done, class... P>
struct Passed : std::type_identity<Done> {};
template <class R, class... Q, class P, class... Rest>
struct Passed<R(Q...), P, Rest...>
    : std::conditional_t<is_for_items<std::decay_t<P>>, Passed<R(Q...), Rest...>, Passed<R(Q..., P), Rest...>> {};

template <class R, class... P>
using StreamOf = Stream<R, typename ItemsAmong<Sink, std::decay_t<P>...>::type,
                        typename ItemsAmong<Source, std::decay_t<P>...>::type>;

/// For a drover::Routine.
template <class R, class... P, class... A>
StreamOf<R, P...> begin_typed_stream(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                                     const drover::Routine<R(P...)>& routine, A&&... arguments) {
  static_assert((... + (is_for_items<std::decay_t<P>> ? 1 : 0)) ==
                    (std::is_void_v<typename ItemsAmong<Sink, std::decay_t<P>...>::type> ? 0 : 1) +
                        (std::is_void_v<typename ItemsAmong<Source, std::decay_t<P>...>::type> ? 0 : 1),
                "a drover::Routine has at most one drover::Sink and one drover::Source");
  using S = StreamOf<R, P...>;
  using Arguments = typename Passed<R(), P...>::type;
  if constexpr (can_be_awaited<R>() &&
                arguments_fit(std::type_identity<Arguments>(), std::type_identity<void(A && ...)>())) {
    const auto write = [&](Encoder& out, FrameBody& body) {
      [&]<class... Q>(std::type_identity<R(Q...)>) {
        (detail::put_typed_argument<Q>(out, body, std::forward<A>(arguments)), ...);
      }(std::type_identity<Arguments>());
    };
    return S(begin_stream(dispatcher, options, routine.name(), ArgumentWriter::of(write), S::flags,
                          declaration_of<R(P...)>()));
  } else {
    return S();
  }
}

}  // namespace detail
}}  // namespace drover::v1
