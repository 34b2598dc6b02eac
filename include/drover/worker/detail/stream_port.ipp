#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/error.hpp>

#include <drover/detail/current_call.hpp>
#include <drover/error.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/running_call.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE void throw_stream_aborted() { throw std::system_error(std::error_code(asio::error::operation_aborted)); }

// ---- the loop's side ------------------------------------------------------------------------------------------------

DROVER_INLINE void StreamPort::open(Flush latest) {
  latest_flush_ = latest;
  if ((flags_ & items_in_flag) != 0) grant(stream_window, Flush::later);
}

DROVER_INLINE void StreamPort::receive(const Frame& frame, FrameReader& reader) {
  const auto refuse = [&](const char* why) { throw Error(Errc::protocol_error, why); };
  switch (frame.header.type) {
    case FrameType::credit: {
      const auto credit = decode_body<CreditBody>(frame.body);
      if ((flags_ & items_out_flag) == 0 || !credit || !send_credit_.grant(credit->bytes))
        refuse("the parent grants credit that makes no sense");
      if (!waits_for_credit_ || !send_credit_.may_send()) return;
      transmit(Flush::later);
      waits_for_credit_ = false;
      if (const auto sent = std::exchange(sent_, nullptr)) sent->set();
      return;
    }
    case FrameType::item:
      if ((flags_ & items_in_flag) == 0 || finished_ || !receive_credit_.admit(cost_of_item(frame.body.size())))
        refuse("the parent sends more items than it may");
      if (frame.body.size() >= ItemQueue::worth_keeping)
        items_.push(reader.take_body());
      else
        items_.push(frame.body);
      break;
    case FrameType::finish:
      if ((flags_ & items_in_flag) == 0 || std::exchange(finished_, true) || !frame.body.empty())
        refuse("the parent ends its items in a way that makes no sense");
      break;
    default: refuse("unexpected frame of a stream");
  }
  if (const auto arrived = std::exchange(arrived_, nullptr)) arrived->set();
}

DROVER_INLINE void StreamPort::close() noexcept {
  Loop* const loop = std::exchange(loop_, nullptr);
  if (loop == nullptr) return;
  items_.clear();
  try {
    if (latest_waits_ && !lost_) loop->queue_frame(header(FrameType::latest), latest_, Flush::later);
  } catch (...) {  // no memory: the caller misses it
  }
  wake_all();
}

DROVER_INLINE void StreamPort::detach() noexcept {
  loop_ = nullptr;
  wake_all();
}

DROVER_INLINE void StreamPort::wake_all() noexcept {
  if (const auto sent = std::exchange(sent_, nullptr)) (void)sent->try_set();
  if (const auto arrived = std::exchange(arrived_, nullptr)) (void)arrived->try_set();
}

DROVER_INLINE void StreamPort::lose() noexcept {
  lost_ = true;
  latest_waits_ = false;
  wake_all();
}

DROVER_INLINE void StreamPort::send_latest(Flush flush) {
  if (!latest_waits_ || !loop_->has_sent_all()) return;
  loop_->queue_frame(header(FrameType::latest), latest_, flush);
  latest_waits_ = false;
}

// ---- the Sink's side ------------------------------------------------------------------------------------------------

DROVER_INLINE FrameBody& StreamPort::begin_item() {
  (void)loop();
  if (waits_for_credit_) throw std::logic_error("a Sink has one writer: another send() is waiting");
  outgoing_.clear();
  return outgoing_;
}

DROVER_INLINE asio::awaitable<void> StreamPort::send() {
  check_size(outgoing_);
  if (send_credit_.may_send()) {
    asio::awaitable<void> sent = nothing();  // before the item is: there may be no memory
    transmit(Flush::later);
    return sent;
  }
  auto event = std::make_shared<AsyncEvent>();
  WaitingItem<StreamPort, AsyncEvent> item(shared_from_this(), event);
  asio::awaitable<void> wait = await_credit(std::move(item));
  sent_ = std::move(event);
  waits_for_credit_ = true;
  return wait;
}

DROVER_INLINE asio::awaitable<void> StreamPort::nothing() { co_return; }

DROVER_INLINE asio::awaitable<void> StreamPort::await_credit(WaitingItem<StreamPort, AsyncEvent> item) {
  const std::shared_ptr<StreamPort> port = item.sender();
  asio::awaitable<void> wait = AsyncEvent::wait(item.event());
  co_await std::move(wait);
  if (port->waits_for_credit_) (void)port->loop();  // throws: it was not sent
}

DROVER_INLINE void StreamPort::withdraw(const AsyncEvent& event) noexcept {
  if (sent_.get() != &event) return;
  waits_for_credit_ = false;
  sent_.reset();
}

DROVER_INLINE void StreamPort::write() {
  require_routine();
  check_size(outgoing_);
  loop().look_in_routine(id_);
  while (!send_credit_.may_send()) loop().wait_in_routine(id_);
  if (lost_) throw_stream_aborted();
  transmit(Flush::now);
}

DROVER_INLINE FrameBody& StreamPort::begin_latest() {
  (void)loop();
  scratch_.clear();
  return scratch_;
}

DROVER_INLINE void StreamPort::latest() {
  check_size(scratch_);
  std::swap(latest_, scratch_);
  latest_waits_ = true;
  send_latest(latest_flush_);
  if (!latest_waits_) return;
  scratch_.clear();  // what it has replaced
}

// ---- the Source's side ----------------------------------------------------------------------------------------------

DROVER_INLINE StreamPort::Next StreamPort::look() {
  (void)loop();
  if (arrived_) throw std::logic_error("a Source has one reader: another next() is waiting");
  if (!items_.empty()) return Next::item;
  if (finished_) return Next::end;
  if (credit_is_due_) {
    grant(receive_credit_.taken(0), Flush::later);
    credit_is_due_ = false;
  }
  return Next::wait;
}

DROVER_INLINE asio::awaitable<void> StreamPort::wait(std::shared_ptr<StreamPort> port) {
  const auto event = std::make_shared<AsyncEvent>();
  port->arrived_ = event;
  try {
    asio::awaitable<void> wait = AsyncEvent::wait(event);
    co_await std::move(wait);
  } catch (...) {
    if (port->arrived_ == event) port->arrived_.reset();
    throw;
  }
  if (port->lost_) throw_stream_aborted();
}

DROVER_INLINE StreamPort::Next StreamPort::look_here() {
  (void)loop();
  require_routine();
  loop().look_in_routine(id_);
  return look();
}

DROVER_INLINE void StreamPort::wait_here() {
  require_routine();
  loop().wait_in_routine(id_);
}

DROVER_INLINE void StreamPort::pop(Flush flush) noexcept {
  const std::uint64_t cost = cost_of_item(items_.front().size());
  items_.pop();
  const std::uint64_t bytes = receive_credit_.taken(cost);
  if (bytes == 0 || finished_) return;
  try {
    grant(bytes, flush);
  } catch (...) {  // no memory
    credit_is_due_ = true;
  }
}

// ---- both -----------------------------------------------------------------------------------------------------------

DROVER_INLINE FrameHeader StreamPort::header(FrameType type) const noexcept {
  FrameHeader header;
  header.type = type;
  header.slot = slot_;
  header.id = id_;
  return header;
}

DROVER_INLINE StreamPort::Loop& StreamPort::loop() const {
  if (loop_ == nullptr) throw std::logic_error("the call that this Sink or Source belongs to has ended");
  if (lost_) throw_stream_aborted();
  return *loop_;
}

/// Another routine would wait for items that are behind its own call.
DROVER_INLINE void StreamPort::require_routine() const {
  const auto* const running = static_cast<const RunningCall*>(current_call);
  if (running == nullptr || running->id != id_)
    throw std::logic_error("write() and read() block, and are for the routine that the Sink or Source was given to");
}

DROVER_INLINE void StreamPort::check_size(const FrameBody& body) const {
  if (body.size() <= limit_) return;
  throw Error(Errc::message_too_large, "an item takes " + std::to_string(body.size()) +
                                           " bytes, WorkerOptions::max_message_size allows " + std::to_string(limit_));
}

DROVER_INLINE void StreamPort::transmit(Flush flush) {
  const std::uint64_t cost = cost_of_item(outgoing_.size());
  loop_->queue_frame(header(FrameType::item), outgoing_, flush);
  send_credit_.sent(cost);
  outgoing_.clear();
}

DROVER_INLINE void StreamPort::grant(std::uint64_t bytes, Flush flush) {
  const CreditBody credit{.bytes = bytes};
  try {
    scratch_.clear();
    scratch_.buffer().append(encode_body(credit));
    loop_->queue_frame(header(FrameType::credit), scratch_, flush);
  } catch (...) {
    receive_credit_.not_granted(bytes);
    throw;
  }
}

}}}  // namespace drover::v1::detail
