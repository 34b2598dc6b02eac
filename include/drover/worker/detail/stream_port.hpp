#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/async_event.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/detail/item_queue.hpp>
#include <drover/wire/detail/stream_credit.hpp>
#include <drover/wire/detail/waiting_item.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The call is cancelled, or its items can't be sent any more.
[[noreturn]] void throw_stream_aborted();

/// The items of one call in its worker, behind its Sink and its Source. It may outlive the call. Used on the main
/// thread.
class StreamPort : public std::enable_shared_from_this<StreamPort> {
 public:
  enum class Flush {
    now,   // the routine may go on for long
    later  // when the loop turns
  };
  /// The main loop of the worker.
  class Loop {
   public:
    /// Queues a frame on the data socket. The body keeps its capacity.
    virtual void queue_frame(FrameHeader header, FrameBody& body, Flush flush) = 0;
    /// What was queued so far has been given to the socket.
    virtual bool has_sent_all() = 0;
    /// Blocks until the parent or the control thread has sent something, and takes that. Throws operation_aborted if
    /// the call is cancelled, or if its items can't be sent any more.
    virtual void wait_in_routine(std::uint64_t call) = 0;
    /// The same without waiting.
    virtual void look_in_routine(std::uint64_t call) = 0;

   protected:
    ~Loop() = default;
  };

  /// `limit`: the largest item, in bytes.
  StreamPort(Loop& loop, const FrameHeader& call, std::size_t limit) noexcept
      : loop_(&loop), flags_(call.status), slot_(call.slot), id_(call.id), limit_(limit) {}

  std::uint64_t id() const noexcept { return id_; }

  // ---- the loop's side ----------------------------------------------------------------------------------------------

  /// The routine begins: the parent may send items, if it has any. `latest`: of the values of latest().
  void open(Flush latest);
  /// A frame of the parent. Throws Error with protocol_error.
  void receive(const Frame& frame, FrameReader& reader);
  /// The routine has ended. What is queued is sent before its RESULT.
  void close() noexcept;
  /// The loop is destroyed.
  void detach() noexcept;
  /// Nothing can be sent or received any more.
  void lose() noexcept;
  /// Sends the value of latest() that had to wait, if there is one.
  void send_latest() { send_latest(Flush::later); }
  bool has_latest() const noexcept { return latest_waits_; }

  // ---- the Sink's side ----------------------------------------------------------------------------------------------

  /// Empty, to encode an item into. Throws std::logic_error if the call has ended, or if an item waits for credit.
  FrameBody& begin_item();
  /// Sends the item, or keeps it until there is credit. The awaitable waits for that.
  asio::awaitable<void> send();
  /// The item that waits for credit is not sent. No effect if it has been sent.
  void withdraw(const AsyncEvent& event) noexcept;
  /// Sends the item. Blocks until there is credit.
  void write();
  /// Empty, to encode a value for latest() into.
  FrameBody& begin_latest();
  void latest();

  // ---- the Source's side --------------------------------------------------------------------------------------------

  enum class Next { item, wait, end };
  /// Throws std::logic_error if the call has ended, or if somebody waits already; operation_aborted after lose().
  Next look();
  /// Waits until look() says something else. Throws operation_aborted.
  static asio::awaitable<void> wait(std::shared_ptr<StreamPort> port);
  /// The same for a routine that blocks. Both throw operation_aborted if the call is cancelled.
  Next look_here();
  void wait_here();
  /// The first item. There is one.
  std::span<const std::byte> front() const noexcept { return items_.front(); }
  void pop(Flush flush) noexcept;
  std::size_t limit() const noexcept { return limit_; }

 private:
  static asio::awaitable<void> nothing();
  static asio::awaitable<void> await_credit(WaitingItem<StreamPort, AsyncEvent> item);
  FrameHeader header(FrameType type) const noexcept;
  Loop& loop() const;
  void require_routine() const;
  void check_size(const FrameBody& body) const;
  void wake_all() noexcept;
  void send_latest(Flush flush);
  void transmit(Flush flush);
  void grant(std::uint64_t bytes, Flush flush);

  Loop* loop_;                // null: the call has ended
  const std::uint8_t flags_;  // items_out_flag, items_in_flag
  const std::uint32_t slot_;
  const std::uint64_t id_;
  const std::size_t limit_;
  bool lost_ = false;

  SendCredit send_credit_{stream_window};
  FrameBody outgoing_;
  bool waits_for_credit_ = false;  // outgoing_ does
  std::shared_ptr<AsyncEvent> sent_;
  FrameBody latest_;
  bool latest_waits_ = false;
  Flush latest_flush_ = Flush::later;

  ReceiveCredit receive_credit_{stream_window};
  ItemQueue items_;
  bool finished_ = false;       // no further item comes
  bool credit_is_due_ = false;  // there was no memory to grant it
  std::shared_ptr<AsyncEvent> arrived_;
  FrameBody scratch_;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/worker/detail/stream_port.ipp>
#endif
