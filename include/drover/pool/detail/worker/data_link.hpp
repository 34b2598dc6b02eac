#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/error.hpp>
#include <drover/os/detail/cpu.hpp>
#include <drover/os/fd.hpp>
#include <drover/pool/balancer.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/item_receiver.hpp>
#include <drover/pool/detail/call/link_chooser.hpp>
#include <drover/pool/detail/call/priority_queues.hpp>
#include <drover/pool/detail/call/priority_shares.hpp>
#include <drover/pool/detail/worker/call_slots.hpp>
#include <drover/pool/detail/worker/socket_watch.hpp>
#include <drover/wire/cancel_reason.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One worker as the dispatcher sees it: its slots for calls, and its data socket, on which CALL goes out and RESULT
/// comes in. Decides when frames are flushed. Guarded by the dispatcher's mutex.
class DataLink {
 public:
  /// The worker behind it. Called with the dispatcher's mutex held.
  class Listener {
   public:
    /// For texts: "worker 'name' (pid)".
    virtual std::string describe() const = 0;
    /// The number of its slot in the pool.
    virtual std::size_t slot() const noexcept = 0;
    virtual void send_cancel(std::uint64_t call, CancelReason reason) = 0;
    virtual void send_recall(std::uint64_t call) = 0;
    virtual void kill_worker(const Call& call) = 0;
    /// Reads results by DataLink::read(). Dispatcher::run_completions() has to follow.
    virtual void read_results(int times) = 0;
    /// The RESULT of a call in flight. `outcome` borrows from reader().
    virtual void result(const std::shared_ptr<Call>& call, Outcome outcome) = 0;
    /// The worker has begun a call that awaits_begun.
    virtual void begun(Call& call) = 0;
    /// The worker has closed the socket.
    virtual void data_closed() = 0;
    /// The worker does not read it any more, and a frame was lost. What it has sent can still be read.
    virtual void data_broken() = 0;

   protected:
    ~Listener() = default;
  };

  DataLink(LinkOwner& owner, Listener& listener, std::size_t capacity) noexcept
      : owner_(owner), listener_(listener), slots_(capacity) {}

  Listener& worker() const noexcept { return listener_; }
  Load load() const noexcept {
    return {.ready = takes_calls_ && channel_.has_value(), .in_flight = in_flight(), .capacity = slots_.capacity()};
  }
  /// Calls that the worker runs or is about to run: without the one that was sent ahead.
  std::size_t in_flight() const noexcept { return slots_.in_flight() - (ahead_ != nullptr ? 1 : 0); }
  /// The worker runs one call at a time, and its last one was so short that it would have to wait for the next one: one
  /// more may be sent ahead. Not behind a call that may have gone back: its RESULT would not come before. Nor if calls
  /// wait for this worker alone: there would always be one ahead of them. Nor behind a stream, whose items would be
  /// behind the call.
  bool has_room_ahead() const noexcept {
    return quick_ && ahead_ == nullptr && pinned.empty() && slots_.capacity() == 1 && slots_.in_flight() == 1 &&
           takes_calls_ && channel_ && first_->state == CallState::running && !first_->recalled && !first_->stream;
  }
  /// The worker may have other calls, so that it has to say when it begins this one, whose time counts from then on.
  bool begins_unseen(const Call& call) const noexcept { return call.run_for && slots_.capacity() > 1; }
  /// The call that was sent ahead. Null if there is none.
  Call* ahead() const noexcept { return ahead_; }
  /// The call that the worker has run for longest. Null if it runs none.
  const Call* oldest() const noexcept {
    const Call* oldest = nullptr;
    slots_.look_at_each([&](const Call& call) {
      if (&call != ahead_ && (oldest == nullptr || call.began_at < oldest->began_at)) oldest = &call;
    });
    return oldest;
  }
  /// A call of a worker that may have one sent ahead. Null if it has no such call.
  std::shared_ptr<Call> find_recalled(std::uint64_t id) const noexcept {
    auto call = slots_.find(0, id);
    return call ? call : slots_.find(1, id);
  }
  /// Until its next quick result.
  void send_nothing_ahead() noexcept { quick_ = false; }
  /// All results that the worker has sent are known: what has none has not ended.
  bool has_read_all() const noexcept { return has_read_all_; }
  void assume_unread() noexcept { has_read_all_ = false; }
  /// The worker can't send any more. What it has sent can still be read.
  void shut_down_reading() noexcept { ::shutdown(channel_->fd(), SHUT_RD); }
  /// The process that was sent calls has been reaped. Behind a wrapper nobody knows.
  bool process_has_ended() const noexcept { return process_has_ended_; }
  void set_process_has_ended() noexcept { process_has_ended_ = true; }
  CallSlots& slots() noexcept { return slots_; }
  const CallSlots& slots() const noexcept { return slots_; }
  /// Should the program have closed the socket, its number may be another file's.
  bool is_intact() const noexcept { return channel_ && channel_->is_intact(); }
  FrameReader& reader() noexcept { return channel_->reader(); }

  void open(UniqueFd socket, std::size_t max_message) {
    channel_.emplace(std::move(socket), max_message, read_at_once);
    channel_->distrust();
  }
  /// Registers the socket with the worker's context. Throws std::system_error.
  void attach(const asio::any_io_executor& executor) {
    watch_ = std::make_unique<SocketWatch>(executor, channel_->fd());
  }
  void begin_reading() { await_readable(); }
  /// In a forked copy of the program, which shares the parent's epoll set, the watch must not be touched.
  void close(bool foreign) noexcept {
    if (foreign) (void)watch_.release();
    watch_.reset();
    channel_.reset();
    has_read_all_ = false;
  }
  void take_calls(bool on) noexcept { takes_calls_ = on; }

  /// Puts the call into a slot and queues its frame. `may_gather`: flush_gathered() is sure to follow soon, so that the
  /// frames for a busy worker can share a system call. An idle worker gets its frame at once, unless it has to wait for
  /// this core anyway. True if the frame waits for flush_gathered().
  bool send(std::shared_ptr<Call> call, bool may_gather) {
    const bool idle = slots_.in_flight() == 0 && !shares_core();
    slots_.reserve();
    call->slot = slots_.next_slot();
    call->id = slots_.next_id();
    call->link = this;
    call->awaits_begun = begins_unseen(*call);
    call->refused_by_worker = false;
    FrameHeader header = call->header();
    if (slots_.capacity() == 1) header.status |= wants_quick_flag;
    if (slots_.in_flight() == slots_.capacity()) header.status |= ahead_flag;
    header.core = current_core();
    channel_->queue(header, call->request);
    call->frame_end = channel_->queued_until();
    if (call->takes_descriptors && ++descriptors_wanted_ == 1) channel_->receive_descriptors(true);
    core_ = header.core;
    (slots_.in_flight() < slots_.capacity() ? first_ : ahead_) = call.get();
    slots_.add(std::move(call));
    if (may_gather && !idle && !channel_->gathered_enough(core_, worker_core_)) return gathered_ = true;
    flush_or_drop();
    return false;
  }
  /// The worker, a spare one, takes a slot of its pool: see TAKE_SLOT. Before its first call.
  void send_slot(std::size_t slot, std::span<const std::byte> variables) {
    FrameHeader header;
    header.type = FrameType::take_slot;
    header.id = slot;
    channel_->queue(header, variables);
    flush_or_drop();
  }
  /// Queues a frame for a call in flight. True if it waits for flush_gathered(), which then has to follow.
  bool send_for_stream(FrameType type, const Call& call, FrameBody& body) {
    FrameHeader header;
    header.type = type;
    header.core = current_core();
    header.slot = call.slot;
    header.id = call.id;
    channel_->queue_kept(header, body);
    if (channel_->pending() < 2 * worth_moving) return true;
    flush_or_drop();
    return false;
  }
  /// The caller of a stream has taken so many bytes of items.
  void send_credit(const Call& call, std::uint64_t bytes) {
    const CreditBody credit{.bytes = bytes};
    FrameBody body;
    body.buffer().append(encode_body(credit));
    send_for_stream(FrameType::credit, call, body);
    flush_or_drop();
  }
  bool has_gathered() const noexcept { return gathered_; }
  /// False if frames wait for flush_gathered() already.
  bool gather() noexcept { return !std::exchange(gathered_, true); }
  void flush_gathered() {
    if (std::exchange(gathered_, false)) flush_or_drop();
  }
  /// Returns the call whose turn has come, if one was sent ahead.
  Call* release_slot(Call& call) noexcept {
    call.link = nullptr;
    slots_.release(call);
    if (call.takes_descriptors && --descriptors_wanted_ == 0 && channel_) channel_->receive_descriptors(false);
    Call* const next = std::exchange(ahead_, nullptr);
    if (&call == next) return nullptr;
    if (next != nullptr) first_ = next;
    return next;
  }

  /// Writes what is queued.
  void flush() {
    if (!channel_ || writing_ || owner_.foreign()) return;
    if (const std::error_code error = channel_->flush()) {
      if (error == std::errc::broken_pipe || error == std::errc::connection_reset) return listener_.data_broken();
      return owner_.socket_failed("cannot write to the data socket of", error);
    }
    if (channel_->short_of_memory()) return await_memory();
    if (!channel_->wants_write() || !watch_) return;
    watch_->wait(asio::posix::stream_descriptor::wait_write, [this, alive = owner_.keep_alive()](std::error_code ec) {
      const auto held = owner_.lock();
      writing_ = false;
      if (ec) return owner_.socket_failed("cannot watch the data socket of", ec);
      flush();
    });
    writing_ = true;  // the handler waits for the mutex
  }

  /// Drops the unsent frames. They belong to calls that the worker will never begin.
  void discard_unsent() noexcept {
    if (channel_) channel_->discard_unsent();
  }
  /// There was no memory to complete a frame that is partly sent: the worker can't be used any more.
  void drop_unsent() noexcept {
    if (!channel_) return;
    channel_->drop_unsent(std::errc::not_enough_memory);
    try {
      owner_.socket_failed("cannot write to the data socket of", std::make_error_code(std::errc::not_enough_memory));
    } catch (...) {  // the next flush() reports it
    }
  }

  /// Reads at most so many times, or until nothing is left; then the socket is watched again. Bounded: a worker that
  /// answers as fast as it is asked would keep this thread for ever.
  void read(int times) {
    has_read_all_ = false;
    if (!channel_ || failed_ || owner_.foreign()) return;  // nothing counts that follows nonsense
    try {
      const Channel::Received received = receive_all(times);
      has_read_all_ = received != Channel::Received::some && !channel_->short_of_memory();
      if (received == Channel::Received::closed) return listener_.data_closed();
      if (channel_->short_of_memory()) return await_memory();
      await_readable();
    } catch (const Error&) {
      failed_ = true;
      owner_.peer_failed(std::current_exception());
    } catch (const std::system_error& error) {
      failed_ = true;
      owner_.socket_failed("cannot read from the data socket of", error.code());
    } catch (...) {  // no memory for what was sent, which then is lost
      failed_ = true;
      owner_.peer_failed(std::current_exception());
    }
  }
  ChooserHook<DataLink> chooser_hook;
  std::uint64_t number = 0;        ///< see PinnedCalls
  PriorityQueues pinned;           ///< calls that wait for this worker
  PriorityShares shares;           ///< of those, and of those that wait for any worker
  std::uint64_t read_in_turn = 0;  ///< the last turn of the dispatcher's timer in which its results were read

  /// Reads nothing more: the worker has sent what makes no sense.
  void distrust() noexcept { failed_ = true; }

 private:
  Channel::Received receive_all(int times) {
    try {
      Channel::Received received{};
      do {
        received = channel_->receive();
        while (const auto frame = channel_->next()) take(*frame);
      } while (--times > 0 && received == Channel::Received::some);
      return received;
    } catch (const MalformedFrame& frame) {
      throw Error(Errc::protocol_error, listener_.describe() + " sent a malformed message: " + frame.why());
    }
  }

  /// Items of streams arrive as fast as they can be read. What is not used of the buffer takes no memory.
  static constexpr std::size_t read_at_once = 256 * 1024;

  /// The worker was last seen on the core that the last call came from.
  bool shares_core() const noexcept { return core_ != 0 && core_ == worker_core_; }

  void take(const Frame& frame) {
    const FrameType type = frame.header.type;
    if (type == FrameType::result) [[likely]]
      return listener_.result(find_answered(frame.header), outcome_of(frame));
    if (type == FrameType::begun) {
      const auto call = find(frame.header, "the beginning");
      if (frame.body.empty() && std::exchange(call->awaits_begun, false)) return listener_.begun(*call);
    } else if (type == FrameType::item || type == FrameType::latest || type == FrameType::credit) {
      const auto call = find(frame.header, "an item or credit");
      if (call->stream && call.get() != ahead_) return call->stream->receive(*this, *call, frame);
    }
    throw Error(Errc::protocol_error,
                listener_.describe() + " sent an unexpected frame for call " + std::to_string(frame.header.id));
  }

  std::shared_ptr<Call> find_answered(const FrameHeader& header) {
    auto call = find(header, "a result");
    if (header.descriptors != 0 && !call->takes_descriptors)
      throw Error(Errc::protocol_error, listener_.describe() + " sent descriptors with the result of call " +
                                            std::to_string(header.id) + ", which takes none");
    worker_core_ = header.core;
    quick_ = (header.status & quick_flag) != 0;
    return call;
  }

  /// The call that a frame belongs to.
  std::shared_ptr<Call> find(const FrameHeader& header, const char* what) const {
    auto call = slots_.find(header.slot, header.id);
    if (!call)
      throw Error(Errc::protocol_error,
                  listener_.describe() + " sent " + what + " for unknown call " + std::to_string(header.id));
    // Otherwise its caller could go on, and send more and more to a worker that reads nothing.
    if (!channel_->has_sent(call->frame_end))
      throw Error(Errc::protocol_error, listener_.describe() + " sent " + what + " for call " +
                                            std::to_string(header.id) + ", which it has not received");
    return call;
  }

  /// While a handler runs, its context cannot be destroyed.
  struct OnContext {
    explicit OnContext(DataLink& of) noexcept : link(of) { link.on_context_ = true; }
    OnContext(const OnContext&) = delete;
    OnContext& operator=(const OnContext&) = delete;
    ~OnContext() { link.on_context_ = false; }
    DataLink& link;
  };

  Outcome outcome_of(const Frame& frame) const {
    Outcome outcome{nullptr, static_cast<ResultStatus>(frame.header.status & ~quick_flag), frame.body};
    try {
      if (outcome.status != ResultStatus::ok) outcome.failure = refusal_of(outcome);
    } catch (const DecodeError& error) {
      throw Error(Errc::protocol_error, listener_.describe() + " sent a malformed result: " + error.what());
    }
    return outcome;
  }

  void await_readable() {
    if (reading_ || !watch_) return;
    std::unique_lock<std::mutex> context;
    if (!on_context_) context = owner_.lock_context();
    if (!on_context_ && !context) return;
    watch_->wait(asio::posix::stream_descriptor::wait_read, [this, alive = owner_.keep_alive()](std::error_code ec) {
      auto held = owner_.lock();
      reading_ = false;
      if (ec) return owner_.socket_failed("cannot watch the data socket of", ec);
      {
        const OnContext here(*this);
        listener_.read_results(1);
      }
      owner_.run_completions(std::move(held));
    });
    reading_ = true;  // the handler waits for the mutex
  }
  void await_memory() {
    if (!watch_ || awaiting_memory_) return;
    watch_->wait_for_memory([this, alive = owner_.keep_alive()] {
      auto held = owner_.lock();
      awaiting_memory_ = false;
      flush();
      if (!reading_) listener_.read_results(1);
      owner_.run_completions(std::move(held));
    });
    awaiting_memory_ = true;
  }
  /// The call that is being sent stays in its slot: it ends with the worker.
  void flush_or_drop() noexcept {
    try {
      flush();
    } catch (...) {  // no memory to wait for the socket, or for an error
      drop_unsent();
    }
  }

  LinkOwner& owner_;
  Listener& listener_;
  CallSlots slots_;
  Call* first_ = nullptr;  // of a worker with one call at a time: the call that it runs, while it has one
  Call* ahead_ = nullptr;  // and the one that was sent ahead
  std::optional<Channel> channel_;
  std::unique_ptr<SocketWatch> watch_;  // empty before the worker is ready, and once the context is destroyed
  std::size_t descriptors_wanted_ = 0;  // calls in flight that take some
  std::uint16_t core_ = 0;              // where the last call came from
  std::uint16_t worker_core_ = 0;       // where the last answer came from
  bool takes_calls_ = false;
  bool quick_ = false;  // its last result had the quick_flag
  bool has_read_all_ = false;
  bool process_has_ended_ = false;
  bool gathered_ = false;  // frames wait for flush_gathered()
  bool failed_ = false;
  bool on_context_ = false;  // in a handler of the worker's context
  bool reading_ = false, writing_ = false, awaiting_memory_ = false;
};

}}}  // namespace drover::v1::detail
