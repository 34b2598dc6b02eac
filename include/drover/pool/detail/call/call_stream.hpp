#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/async_event.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/item_receiver.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/detail/item_queue.hpp>
#include <drover/wire/detail/stream_credit.hpp>
#include <drover/wire/detail/waiting_item.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

class DataLink;
class Dispatcher;
class PendingCall;
struct ArgumentWriter;

/// The items of one call in the parent, between its link and the Stream of its caller. One reader takes items, one
/// writer sends them. Its mutex comes after the dispatcher's.
class CallStream final : public ItemReceiver, public std::enable_shared_from_this<CallStream> {
 public:
  /// Of an item that waits for credit.
  struct ItemEvent final : AsyncEvent {
    bool sent = false;  // guarded by the stream's mutex
  };

  /// `flags`: items_out_flag, items_in_flag. `declaration`: see Call.
  CallStream(std::shared_ptr<Dispatcher> dispatcher, std::uint8_t flags, const char* declaration = nullptr) noexcept;

  /// Begins the call. If that fails, the stream has ended.
  void begin(PendingCall call);

  // ---- the link's side, with the dispatcher's mutex held ------------------------------------------------------------

  void receive(DataLink& link, Call& call, const Frame& frame) override;

  // ---- the call's side, without the dispatcher's mutex --------------------------------------------------------------

  /// `failure`: null if `body` is the result.
  void end(std::exception_ptr failure, ByteBuffer body = {}) noexcept;

  // ---- the reader's side --------------------------------------------------------------------------------------------

  /// A reader may begin. Throws std::logic_error if there is one.
  void begin_reading();
  void end_reading() noexcept { reading_ = false; }

  /// Waits until there is an item: true. False: all have been taken, and the call has succeeded. Throws its failure.
  static asio::awaitable<bool> wait_for_item(std::shared_ptr<CallStream> stream);
  /// There is an item already.
  bool has_item();
  std::span<const std::byte> front() const noexcept;
  void pop() noexcept;
  std::size_t spare_memory() const noexcept { return spare_memory_; }
  /// Throws Errc::bad_arguments for an item or a result that is not of the type that stream() asked for. In a handler.
  [[noreturn]] void throw_undecodable(const char* what) const;

  /// Drops the items that have come and those that will come.
  void discard() noexcept;
  /// Waits until the call has ended. Throws its failure.
  static asio::awaitable<void> wait_for_end(std::shared_ptr<CallStream> stream);
  /// The encoded result. Throws std::logic_error if it was taken before.
  ByteBuffer take_result();

  // ---- the writer's side --------------------------------------------------------------------------------------------

  /// Empty, to encode an item into. Throws std::logic_error after finish(), and while an item waits for credit.
  FrameBody& begin_item();
  /// Sends the item, or keeps it until there is credit. The awaitable waits for that. False: the routine takes no more.
  asio::awaitable<bool> send();
  /// The item that waits for credit is not sent. False: it has been sent already.
  bool withdraw(const ItemEvent& event) noexcept;
  void finish();

  // ---- the owner's side ---------------------------------------------------------------------------------------------

  void cancel() noexcept;
  /// The Stream is destroyed.
  void abandon() noexcept;

 private:
  struct Local {  // of the reader, without the mutex
    ItemQueue items;
    ByteBuffer latest;
    bool latest_is_front = false;
    std::uint64_t taken = 0;     // bytes of items
    bool credit_is_due = false;  // there was no memory to grant it
  };

  static asio::awaitable<bool> ready(bool value);
  static asio::awaitable<bool> await_credit(WaitingItem<CallStream, ItemEvent> item);
  bool may_send_locked() const noexcept;
  /// The event that the reader waits for. Null if there is an item, or the call has ended.
  std::shared_ptr<AsyncEvent> reader_event(bool for_end);
  void receive_item_locked(DataLink& link, Call& call, const Frame& frame);
  void receive_credit_locked(DataLink& link, const Call& call, const Frame& frame);
  void transmit_locked(DataLink& link, const Call& call);
  void finish_locked(DataLink& link, const Call& call);
  void grant(std::uint64_t bytes) noexcept;
  void settle();
  void rethrow_failure() const;

  const std::shared_ptr<Dispatcher> dispatcher_;
  const std::size_t spare_memory_;
  const char* const declaration_;

  std::atomic<bool> reading_{false};
  Local local_;

  mutable std::mutex mutex_;
  std::shared_ptr<Call> call_;  // until it has ended
  bool discards_ = false;
  ReceiveCredit receive_credit_{stream_window};
  ItemQueue arrived_;
  std::optional<ByteBuffer> latest_;
  std::shared_ptr<AsyncEvent> reader_;
  bool ended_ = false;
  std::exception_ptr failure_;
  bool failure_dropped_ = false;  // by abandon()
  ByteBuffer result_;
  bool result_taken_ = false;

  SendCredit send_credit_{0};
  FrameBody outgoing_;  // the writer's, unless it waits for credit
  bool credit_came_ = false;
  bool waits_for_credit_ = false;
  std::shared_ptr<ItemEvent> writer_;
  bool finished_ = false;
  bool finish_is_due_ = false;
};

/// Begins a call with items.
std::shared_ptr<CallStream> begin_stream(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                                         RoutineName routine, ArgumentWriter writer, std::uint8_t flags,
                                         const char* declaration = nullptr);

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/call/begin_stream.ipp>
#include <drover/pool/detail/call/call_stream.ipp>
#endif
