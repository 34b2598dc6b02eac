#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/call_stream.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE CallStream::CallStream(std::shared_ptr<Dispatcher> dispatcher, std::uint8_t flags,
                                     const char* declaration) noexcept
    : ItemReceiver(flags),
      dispatcher_(std::move(dispatcher)),
      spare_memory_(dispatcher_ ? drover::detail::spare_memory(dispatcher_->max_message_size()) : usual_spare_memory),
      declaration_(declaration) {}

DROVER_INLINE void CallStream::throw_undecodable(const char* what) const {
  std::string why;
  try {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {  // a user's codec may throw any exception
    why = what_of(e);
  }
  throw Error(Errc::bad_arguments,
              std::string(what) + " is not of the type that stream() asked for: " + why + declared_text(declaration_));
}

DROVER_INLINE void CallStream::end(std::exception_ptr failure, ByteBuffer body) noexcept {
  std::shared_ptr<Call> call;
  std::shared_ptr<AsyncEvent> reader;
  std::shared_ptr<ItemEvent> writer;
  {
    const std::lock_guard held(mutex_);
    if (std::exchange(ended_, true)) return;
    failure_ = std::move(failure);
    result_ = std::move(body);
    call.swap(call_);
    reader.swap(reader_);
    writer.swap(writer_);
  }
  if (reader) (void)reader->try_set();
  if (writer) (void)writer->try_set();
}

// ---- the link's side ------------------------------------------------------------------------------------------------

DROVER_INLINE void CallStream::receive(DataLink& link, Call& call, const Frame& frame) {
  const std::lock_guard held(mutex_);
  set_begun();
  if (frame.header.type == FrameType::credit)
    receive_credit_locked(link, call, frame);
  else
    receive_item_locked(link, call, frame);
}

DROVER_INLINE void CallStream::receive_item_locked(DataLink& link, Call& call, const Frame& frame) {
  const std::uint64_t cost = cost_of_item(frame.body.size());
  const bool is_latest = frame.header.type == FrameType::latest;
  if ((flags() & items_out_flag) == 0)
    throw Error(Errc::protocol_error, link.worker().describe() + " sent an item for a call without any");
  if (!is_latest && !receive_credit_.admit(cost))
    throw Error(Errc::protocol_error, link.worker().describe() + " sent more items than it may");
  if (ended_ || call.state == CallState::abandoned) return;  // its caller has gone
  if (discards_) {
    if (is_latest) return;
    if (const std::uint64_t bytes = receive_credit_.taken(cost)) link.send_credit(call, bytes);
    return;
  }
  const bool large = frame.body.size() >= ItemQueue::worth_keeping;
  if (is_latest) {
    if (!latest_) latest_.emplace();
    if (large) {
      latest_ = link.reader().take_body();
    } else {
      latest_->clear();
      latest_->append(frame.body);
    }
  } else if (large) {
    arrived_.push(link.reader().take_body());
  } else {
    arrived_.push(frame.body);
  }
  if (reader_ && reader_->try_set()) reader_.reset();
}

DROVER_INLINE void CallStream::receive_credit_locked(DataLink& link, const Call& call, const Frame& frame) {
  const auto credit = decode_body<CreditBody>(frame.body);
  if ((flags() & items_in_flag) == 0 || !credit || !send_credit_.grant(credit->bytes))
    throw Error(Errc::protocol_error, link.worker().describe() + " granted credit that makes no sense");
  credit_came_ = true;
  if (ended_ || call.state == CallState::abandoned) return;
  if (waits_for_credit_ && send_credit_.may_send()) {
    transmit_locked(link, call);
    waits_for_credit_ = false;
    if (writer_) writer_->sent = true;
    if (writer_ && writer_->try_set()) writer_.reset();
  }
  if (!waits_for_credit_ && std::exchange(finish_is_due_, false)) finish_locked(link, call);
}

// ---- the reader's side ----------------------------------------------------------------------------------------------

DROVER_INLINE void CallStream::begin_reading() {
  if (reading_.exchange(true)) throw std::logic_error("a stream has one reader: another next() or result() is waiting");
}

DROVER_INLINE bool CallStream::has_item() {
  if (local_.latest_is_front || !local_.items.empty()) return true;
  const std::lock_guard held(mutex_);
  if (!arrived_.empty()) {
    local_.items.swap(arrived_);
    return true;
  }
  if (!latest_) return false;
  local_.latest = std::move(*latest_);
  latest_.reset();
  return local_.latest_is_front = true;
}

DROVER_INLINE std::span<const std::byte> CallStream::front() const noexcept {
  return local_.latest_is_front ? local_.latest.view() : local_.items.front();
}

DROVER_INLINE void CallStream::pop() noexcept {
  if (std::exchange(local_.latest_is_front, false)) return;
  local_.taken += cost_of_item(local_.items.front().size());
  local_.items.pop();
  if (local_.taken >= stream_window / 2) grant(std::exchange(local_.taken, 0));
}

DROVER_INLINE std::shared_ptr<AsyncEvent> CallStream::reader_event(bool for_end) {
  settle();
  auto event = std::make_shared<AsyncEvent>();
  const std::lock_guard held(mutex_);
  if (ended_ || (!for_end && (!arrived_.empty() || latest_))) return nullptr;
  reader_ = event;
  return event;
}

DROVER_INLINE asio::awaitable<bool> CallStream::wait_for_item(std::shared_ptr<CallStream> stream) {
  for (;;) {
    if (stream->has_item()) co_return true;
    const auto event = stream->reader_event(false);
    if (!event) {
      if (stream->has_item()) co_return true;
      stream->rethrow_failure();
      co_return false;
    }
    asio::awaitable<void> wait = AsyncEvent::wait(event);
    co_await std::move(wait);
  }
}

DROVER_INLINE asio::awaitable<void> CallStream::wait_for_end(std::shared_ptr<CallStream> stream) {
  while (const auto event = stream->reader_event(true)) {
    asio::awaitable<void> wait = AsyncEvent::wait(event);
    co_await std::move(wait);
  }
  stream->rethrow_failure();
}

DROVER_INLINE void CallStream::rethrow_failure() const {
  std::exception_ptr failure;
  {
    const std::lock_guard held(mutex_);
    failure = failure_dropped_ ? aborted() : failure_;
  }
  if (failure) std::rethrow_exception(failure);
}

DROVER_INLINE void CallStream::discard() noexcept {
  std::uint64_t taken = std::exchange(local_.taken, 0);
  const auto drop = [&](ItemQueue& items) {
    for (; !items.empty(); items.pop()) taken += cost_of_item(items.front().size());
  };
  drop(local_.items);
  local_.latest_is_front = false;
  {
    const std::lock_guard held(mutex_);
    discards_ = true;
    drop(arrived_);
    latest_.reset();
  }
  grant(taken);
}

DROVER_INLINE ByteBuffer CallStream::take_result() {
  const std::lock_guard held(mutex_);
  if (std::exchange(result_taken_, true)) throw std::logic_error("the result of this stream has been taken already");
  return std::move(result_);
}

/// The reader has taken so many bytes.
DROVER_INLINE void CallStream::grant(std::uint64_t bytes) noexcept {
  const auto dispatcher = dispatcher_;
  if (!dispatcher) return;
  const auto held = dispatcher->lock();
  const std::lock_guard mine(mutex_);
  if (!call_ || dispatcher->foreign()) return;
  bytes = receive_credit_.taken(bytes);
  if (bytes == 0 || call_->link == nullptr || call_->state != CallState::running) return;
  try {
    call_->link->send_credit(*call_, bytes);
  } catch (...) {  // no memory
    receive_credit_.not_granted(bytes);
    local_.credit_is_due = true;
  }
}

/// Before the reader waits: without credit nothing may come any more. Throws std::bad_alloc.
DROVER_INLINE void CallStream::settle() {
  if (!std::exchange(local_.credit_is_due, false)) return;
  grant(0);
  if (local_.credit_is_due) throw std::bad_alloc();
}

// ---- the writer's side ----------------------------------------------------------------------------------------------

DROVER_INLINE FrameBody& CallStream::begin_item() {
  const std::lock_guard held(mutex_);
  if (finished_) throw std::logic_error("send() after finish()");
  if (waits_for_credit_ && !ended_) throw std::logic_error("a stream has one writer: another send() is waiting");
  outgoing_.clear();
  return outgoing_;
}

DROVER_INLINE asio::awaitable<bool> CallStream::send() {
  const auto dispatcher = dispatcher_;
  if (dispatcher && outgoing_.size() > dispatcher->max_message_size())
    throw Error(Errc::message_too_large, "an item takes " + std::to_string(outgoing_.size()) +
                                             " bytes, WorkerOptions::max_message_size allows " +
                                             std::to_string(dispatcher->max_message_size()));
  asio::awaitable<bool> wait;  // destroyed without the mutex, which it takes
  for (std::shared_ptr<ItemEvent> event;;) {
    {
      std::unique_lock<std::mutex> held;
      if (dispatcher) held = dispatcher->lock();
      const std::lock_guard mine(mutex_);
      if (ended_) {
        if (failure_) std::rethrow_exception(failure_);
        return ready(false);
      }
      if (may_send_locked()) {
        asio::awaitable<bool> sent = ready(true);  // before the item is: there may be no memory
        transmit_locked(*call_->link, *call_);
        return sent;
      }
      if (event) {
        writer_ = std::move(event);
        waits_for_credit_ = true;
        return wait;
      }
    }
    event = std::make_shared<ItemEvent>();
    WaitingItem<CallStream, ItemEvent> item(shared_from_this(), event);
    wait = await_credit(std::move(item));
  }
}

DROVER_INLINE bool CallStream::may_send_locked() const noexcept {
  return send_credit_.may_send() && call_ && call_->link != nullptr && call_->state == CallState::running;
}

DROVER_INLINE asio::awaitable<bool> CallStream::ready(bool value) { co_return value; }

DROVER_INLINE asio::awaitable<bool> CallStream::await_credit(WaitingItem<CallStream, ItemEvent> item) {
  const std::shared_ptr<CallStream> stream = item.sender();
  const std::shared_ptr<ItemEvent> event = item.event();
  try {
    asio::awaitable<void> wait = AsyncEvent::wait(event);
    co_await std::move(wait);
  } catch (...) {
    if (stream->withdraw(*event)) throw;
    co_return true;  // cancelled too late
  }
  if (!stream->withdraw(*event)) co_return true;
  stream->rethrow_failure();
  co_return false;
}

DROVER_INLINE bool CallStream::withdraw(const ItemEvent& event) noexcept {
  const std::lock_guard held(mutex_);
  if (event.sent) return false;
  if (writer_.get() == &event) {
    writer_.reset();
    waits_for_credit_ = false;
  }
  return true;
}

DROVER_INLINE void CallStream::finish() {
  const auto dispatcher = dispatcher_;
  std::unique_lock<std::mutex> held;
  if (dispatcher) held = dispatcher->lock();
  const std::lock_guard mine(mutex_);
  if (ended_ || finished_) return;
  if (waits_for_credit_ || !credit_came_)
    finish_is_due_ = true;
  else if (call_ && call_->link != nullptr && call_->state == CallState::running)
    finish_locked(*call_->link, *call_);
  finished_ = true;  // not if there was no memory
}

DROVER_INLINE void CallStream::transmit_locked(DataLink& link, const Call& call) {
  const std::uint64_t cost = cost_of_item(outgoing_.size());
  if (link.send_for_stream(FrameType::item, call, outgoing_)) dispatcher_->flush_soon(link);
  send_credit_.sent(cost);
  outgoing_.clear();
}

DROVER_INLINE void CallStream::finish_locked(DataLink& link, const Call& call) {
  FrameBody none;
  if (link.send_for_stream(FrameType::finish, call, none)) dispatcher_->flush_soon(link);
}

// ---- the owner's side -----------------------------------------------------------------------------------------------

DROVER_INLINE void CallStream::cancel() noexcept {
  std::shared_ptr<Call> call;
  {
    const std::lock_guard held(mutex_);
    call = call_;
  }
  try {
    PendingCall::cancel(std::move(call));
  } catch (...) {  // no memory
    end(std::current_exception());
  }
}

DROVER_INLINE void CallStream::abandon() noexcept {
  std::exception_ptr failure;  // the reader's thread destroys what the reader has seen, see StreamCompletion
  {
    const std::lock_guard held(mutex_);
    failure_dropped_ = failure_ != nullptr;
    swap(failure, failure_);
    discards_ = true;
    arrived_.clear();
    latest_.reset();
  }
  cancel();
}

}}}  // namespace drover::v1::detail
