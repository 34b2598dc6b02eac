#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/error.hpp>
#include <asio/post.hpp>

#include <drover/pool/detail/call.hpp>
#include <drover/pool/detail/dispatcher.hpp>

namespace drover::inline v1::detail {

DROVER_INLINE std::exception_ptr aborted() {
  const std::error_code code = asio::error::operation_aborted;
  return std::make_exception_ptr(std::system_error(code));
}

/// What is posted to resume a receiver. If it is dropped, because the context is going, so is the receiver, whoever
/// else holds the call: a routine that has not ended yet keeps it for long.
class Resumption {
 public:
  explicit Resumption(std::shared_ptr<Call> call) noexcept : call_(std::move(call)) {}
  Resumption(Resumption&&) noexcept = default;
  Resumption& operator=(Resumption&&) = delete;
  ~Resumption() {
    if (call_ && !Home::Posting::postpone(call_, let_go)) let_go(call_.get());
  }

  void operator()() { Call::resume_with_kept_outcome(std::move(call_)); }

 private:
  static void let_go(void* dropped) noexcept { static_cast<Call*>(dropped)->destroy_receiver(); }

  std::shared_ptr<Call> call_;
};

DROVER_INLINE void Call::keep(Outcome outcome) {
  failure_ = std::move(outcome.failure);
  status_ = outcome.status;
  body_.clear();
  body_.append(outcome.body);
  has_outcome = true;
}

DROVER_INLINE bool Call::claim_receiver() {
  std::shared_ptr<Resident> self;
  const auto held = home->lock();
  return !home->down() && (self = home->move_out(*this)) != nullptr;
}

DROVER_INLINE void Call::post_receiver() {
  const std::shared_ptr<Home> at = home;
  const Home::Posting posting(*at);
  if (at->down()) return;
  if (const auto self = home->move_out(*this)) receiver_->post(std::static_pointer_cast<Call>(self));
}

DROVER_INLINE void Call::resume_with_kept_outcome(std::shared_ptr<Call> call) {
  const Outcome outcome{std::exchange(call->failure_, nullptr), call->status_, call->body_.view()};
  Receiver* const receiver = call->receiver_;
  receiver->resume(std::move(call), outcome);
}

DROVER_INLINE void Call::post_resumption(std::shared_ptr<Call> call, const asio::any_io_executor& executor) {
  asio::post(executor, Resumption(std::move(call)));
}

DROVER_INLINE void Call::give_back(std::shared_ptr<Call> call) {
  call->destroy_receiver();
  if (const auto owner = call->dispatcher.lock()) owner->recycle(std::move(call));
}

DROVER_INLINE void Call::reset(std::size_t most_kept) noexcept {
  if (request.buffer().capacity() > most_kept) request = FrameBody();
  if (body_.capacity() > most_kept) body_ = ByteBuffer();
  state = CallState::queued;
  kill_after.reset();
  lane = nullptr;
  slot = 0;
  id = 0;
  request.clear();
  has_outcome = false;
  failure_ = nullptr;
  body_.clear();
  home.reset();
  same_executor = false;
}

DROVER_INLINE void Call::evict() noexcept {
  // The caller's context is going: nobody waits any more.
  const auto owner = dispatcher.lock();
  Receiver* receiver = nullptr;
  {
    std::unique_lock<std::mutex> held;
    if (owner) held = owner->lock();
    receiver = std::exchange(receiver_, nullptr);
  }
  destroy(receiver);
  if (owner) owner->end(*this, CallEvent::cancelled, nullptr);
}

}  // namespace drover::inline v1::detail
