#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/pool/detail/call/deadlines.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/detail/codec_budget.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;
class DataLink;

/// Makes the exception of a failure, anew for each caller: they may be on different threads, and ThreadSanitizer
/// doesn't see the count of owners that libstdc++ keeps in an exception.
using Cause = std::function<std::exception_ptr()>;

/// Without the memory for it, std::bad_alloc.
inline std::exception_ptr failure_of(const Cause& cause) noexcept {
  try {
    return cause();
  } catch (...) {
    return std::current_exception();
  }
}

std::exception_ptr aborted();
/// What each operation on a worker or a pool fails with in a forked copy of the program.
std::exception_ptr forked_copy();

/// What a call ended with: a failure on this side, or the worker's RESULT, whose bytes are only borrowed.
struct Outcome {
  std::exception_ptr failure;
  ResultStatus status{};
  std::span<const std::byte> body;
};

/// What a RESULT that is not ok stands for. Throws DecodeError if it makes no sense.
std::exception_ptr refusal_of(const Outcome& outcome);

/// The coroutine that awaits a call, with its types erased. Lives in its Call.
class Receiver {
 public:
  virtual ~Receiver() = default;

  /// On the coroutine's executor: decodes, destroys the receiver, gives the call back to be used again and resumes.
  virtual void resume(std::shared_ptr<class Call> call, const Outcome& outcome) = 0;
  /// Posts a Resumption to the coroutine's executor; only enqueues.
  virtual void post(std::shared_ptr<class Call> call) = 0;
};

/// Puts the receiver of a call where it belongs, once, under the dispatcher's mutex.
class Emplacement {
 public:
  virtual void emplace(class Call& call) = 0;

 protected:
  ~Emplacement() = default;
};

/// One call, from call() until its routine has ended. The fields in the first group are guarded by the dispatcher's
/// mutex. Who awaits it (the receiver) is a resident of the awaiting coroutine's context: whoever moves it out of that
/// home may resume it. Calls are reused, with the memory they have grown.
class Call final : public ContextBound, public std::enable_shared_from_this<Call> {
 public:
  CallState state = CallState::queued;
  DeadlineHook deadline;  // of the call while the caller waits; then of kill_after
  Timeout kill_after;
  DataLink* link = nullptr;  // while it has a place in a worker
  std::uint32_t slot = 0;
  std::uint64_t id = 0;
  FrameBody request;           // routine and arguments, until it has ended: it may have to be sent once more
  std::shared_ptr<Call> next;  // in the queue, towards its end
  Call* previous = nullptr;
  bool has_outcome = false;  // it ended before it was awaited, or is to be resumed by a post

  std::weak_ptr<Dispatcher> dispatcher;
  std::size_t spare_memory = usual_spare_memory;  // that a result may take, see Decoder

  /// Keeps an outcome whose bytes are about to go; large ones are moved out of the reader that has just given them out.
  void keep(Outcome outcome, FrameReader* reader = nullptr);

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
  std::shared_ptr<ContextRegistry> registry;  // of the awaiting coroutine's context

  /// True for the one that may resume (or drop) the receiver from now on.
  bool claim_receiver();

  /// Resumes by a post to the coroutine's executor, with the kept outcome.
  void post_receiver();

  static void resume_with_kept_outcome(std::shared_ptr<Call> call);

  /// For receivers: posts the above, and enqueues no more than that.
  static void post_resumption(std::shared_ptr<Call> call, const asio::any_io_executor& executor);

  /// For receivers, in resume(): destroys the receiver, and the call may be used again.
  static void give_back(std::shared_ptr<Call> call);

  /// The name of its routine, for texts.
  std::string routine() const;

  /// Ready for another one; keeps the memory, up to so many bytes of each buffer.
  void reset(std::size_t most_kept) noexcept;

  ~Call() { destroy_receiver(); }

 private:
  DROVER_INLINE void context_destroyed() noexcept override;

  Receiver* receiver_ = nullptr;
  std::exception_ptr failure_;
  ResultStatus status_{};
  ByteBuffer body_;
  alignas(std::max_align_t) std::byte storage_[192];
};

}}}  // namespace drover::v1::detail
