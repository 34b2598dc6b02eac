#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>

#include <drover/detail/home.hpp>
#include <drover/pool/detail/call_state.hpp>
#include <drover/pool/detail/deadlines.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/frame.hpp>

namespace drover::inline v1::detail {

class Dispatcher;
class Lane;

/// Makes the exception of a failure, anew for each caller: they may be on different threads, and ThreadSanitizer
/// doesn't see the count of owners that libstdc++ keeps in an exception.
using Cause = std::function<std::exception_ptr()>;

inline std::exception_ptr aborted() {
  const std::error_code code = asio::error::operation_aborted;
  return std::make_exception_ptr(std::system_error(code));
}

/// What a call ended with: a failure on this side, or the worker's RESULT, whose bytes are only borrowed.
struct Outcome {
  std::exception_ptr failure;
  ResultStatus status{};
  std::span<const std::byte> body;
};

/// The coroutine that awaits a call, with its types erased. Lives in its Call.
class Receiver {
 public:
  virtual ~Receiver() = default;

  /// On the coroutine's executor: decodes, destroys the receiver, gives the call back to be used again and resumes.
  virtual void resume(std::shared_ptr<class Call> call, const Outcome& outcome) = 0;
  /// Posts a Resumption to the coroutine's executor; only enqueues.
  virtual void post(std::shared_ptr<class Call> call) = 0;
};

/// One call, from call() until its routine has ended. The fields in the first group are guarded by the dispatcher's
/// mutex. Who awaits it (the receiver) is a resident of the awaiting coroutine's context: whoever moves it out of that
/// home may resume it. Calls are reused, with the memory they have grown.
class Call final : public Resident, public std::enable_shared_from_this<Call> {
 public:
  CallState state = CallState::queued;
  DeadlineHook deadline;  // of the call while the caller waits; then of kill_after
  Timeout kill_after;
  Lane* lane = nullptr;  // while it has a place in a worker
  std::uint32_t slot = 0;
  std::uint64_t id = 0;
  ByteBuffer request;          // routine and arguments, until it is sent
  std::shared_ptr<Call> next;  // in the queue, towards its end
  Call* previous = nullptr;
  bool has_outcome = false;  // it ended before it was awaited, or is to be resumed by a post

  std::weak_ptr<Dispatcher> dispatcher;

  /// Keeps an outcome whose bytes are about to go.
  void keep(Outcome outcome) {
    failure_ = std::move(outcome.failure);
    status_ = outcome.status;
    body_.clear();
    body_.append(outcome.body);
    has_outcome = true;
  }

  template <class T, class... A>
  void emplace_receiver(A&&... args) {
    if constexpr (sizeof(T) <= sizeof(storage_) && alignof(T) <= alignof(std::max_align_t))
      receiver_ = ::new (static_cast<void*>(storage_)) T(std::forward<A>(args)...);
    else
      receiver_ = new T(std::forward<A>(args)...);
  }

  Receiver* receiver() const noexcept { return receiver_; }

  void destroy_receiver() noexcept { destroy(std::exchange(receiver_, nullptr)); }

  void destroy(Receiver* receiver) noexcept {
    if (receiver == nullptr) return;
    if (static_cast<void*>(receiver) == static_cast<void*>(storage_))
      receiver->~Receiver();
    else
      delete receiver;
  }

  /// Is the awaiting coroutine's executor the dispatcher's own?
  bool same_executor = false;
  std::shared_ptr<Home> home;  // of the awaiting coroutine's context

  /// True for the one that may resume (or drop) the receiver from now on.
  bool claim_receiver() {
    std::shared_ptr<Resident> self;
    const auto held = home->lock();
    return !home->down() && (self = home->move_out(*this)) != nullptr;
  }

  /// Resumes by a post to the coroutine's executor, with the kept outcome.
  void post_receiver() {
    const std::shared_ptr<Home> at = home;
    const Home::Posting posting(*at);
    if (at->down()) return;
    if (const auto self = home->move_out(*this)) receiver_->post(std::static_pointer_cast<Call>(self));
  }

  static void resume_with_kept_outcome(std::shared_ptr<Call> call) {
    const Outcome outcome{std::exchange(call->failure_, nullptr), call->status_, call->body_.view()};
    Receiver* const receiver = call->receiver_;
    receiver->resume(std::move(call), outcome);
  }

  /// Ready for another one; keeps the memory, up to so many bytes of each buffer.
  void reset(std::size_t most_kept) noexcept {
    if (request.capacity() > most_kept) request = ByteBuffer();
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

  ~Call() { destroy_receiver(); }

 private:
  inline void evict() noexcept override;  // dispatcher.hpp

  Receiver* receiver_ = nullptr;
  std::exception_ptr failure_;
  ResultStatus status_{};
  ByteBuffer body_;
  alignas(std::max_align_t) std::byte storage_[192];
};

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

}  // namespace drover::inline v1::detail
