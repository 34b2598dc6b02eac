#pragma once

#include <algorithm>
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
#include <drover/detail/deadlines.hpp>
#include <drover/os/detail/descriptor_list.hpp>
#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/call_names.hpp>
#include <drover/pool/detail/call/item_receiver.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/pool/retry.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/detail/codec_budget.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;
class DataLink;

/// Creates the exception of a failure, anew for each caller: callers may be on different threads, and ThreadSanitizer
/// does not see the reference count that libstdc++ keeps in an exception.
using Cause = std::function<std::exception_ptr()>;

/// The result of `cause`, or std::bad_alloc if there is no memory for it.
inline std::exception_ptr failure_of(const Cause& cause) noexcept {
  try {
    return cause();
  } catch (...) {
    return std::current_exception();
  }
}

std::exception_ptr aborted() noexcept;
/// The failure of each operation on a worker or a pool in a forked copy of the program.
std::exception_ptr forked_copy();

/// How a call ended: a failure on the parent's side, or the worker's RESULT, whose bytes are only borrowed.
struct Outcome {
  std::exception_ptr failure;
  ResultStatus status{};
  std::span<const std::byte> body;
};

/// The exception that a RESULT other than ok stands for. Throws DecodeError if it is malformed.
std::exception_ptr refusal_of(const Outcome& outcome);

/// The handler that waits for a call, with its type erased. It is stored in its Call if it fits.
class Completion {
 public:
  virtual ~Completion() = default;

  /// On the handler's executor: decodes, destroys this object, returns the call for reuse and invokes the handler.
  virtual void resume(std::shared_ptr<class Call> call, Outcome& outcome) = 0;
  /// Posts a PostedCompletion to the handler's executor. Only enqueues.
  virtual void post(std::shared_ptr<class Call> call) = 0;
};

/// One call, from call() until its routine has ended. The dispatcher's mutex guards the fields of the first group. The
/// waiting handler is registered with the awaiting coroutine's context, or is one of the AwaitedCalls: whoever removes
/// it from there may invoke it. Calls are reused, with the memory that they have allocated.
class Call final : public ContextBound, public std::enable_shared_from_this<Call> {
 public:
  CallState state = CallState::queued;
  Deadline due;           // of the call; the routine knows it, too
  DeadlineHook deadline;  // of the call and of its routine while the caller waits, then of kill_after
  Timeout run_for;
  Timeout kill_after;
  Retry retry;
  unsigned attempt = 0;  // how many were before
  std::uint8_t priority = 0;
  std::uint64_t order = 0;        // of its submission
  CallKey* key = nullptr;         // see CallOptions::key
  std::uint64_t only = 0;         // of a broadcast: the number of the link that it is for
  DataLink* pinned_at = nullptr;  // while it waits for that worker
  DataLink* link = nullptr;       // while it has a slot in a worker
  std::uint32_t slot = 0;
  std::uint64_t id = 0;
  std::uint64_t frame_end = 0;           // of its CALL, see Channel::queued_until()
  std::uint64_t ahead_since = 0;         // see CallsAhead
  Clock::time_point submitted_at;        // see CallTimes
  Clock::time_point began_at;            // in its worker, as far as the parent knows
  bool recalled = false;                 // RECALL was sent for it
  bool awaits_begun = false;             // BEGUN is to come for it, see wants_begun_flag
  bool refused_by_worker = false;        // RESULT said `cancelled`, but nobody has cancelled it
  bool has_facts = false;                // the request begins with CallFacts
  bool takes_descriptors = false;        // its result may have some
  std::shared_ptr<ItemReceiver> stream;  // null: it has no items
  // Routine and arguments, kept until the call has ended: it may have to be sent again.
  FrameBody request{DescriptorList::Close::elsewhere};
  std::shared_ptr<Call> next;  // in the queue, towards its end
  Call* previous = nullptr;
  bool has_outcome = false;  // it ended before it was awaited, or its completion is to be posted

  std::weak_ptr<Dispatcher> dispatcher;
  std::size_t spare_memory = usual_spare_memory;  // that a result may take, see Decoder
  std::size_t most_shared = SIZE_MAX;             // that a result may have, see Decoder
  const char* declaration = nullptr;              // of a typed routine, see declaration_of()

  /// That of its CALL, without what depends on the worker's other calls.
  FrameHeader header() const noexcept {
    FrameHeader header;
    header.type = FrameType::call;
    if (has_facts) header.status |= facts_flag;
    if (stream) header.status |= stream->flags();
    if (takes_descriptors) header.status |= takes_descriptors_flag;
    if (awaits_begun) header.status |= wants_begun_flag;
    header.attempt = static_cast<std::uint16_t>(std::min(attempt, 0xffffU));
    header.slot = slot;
    header.id = id;
    return header;
  }

  /// Copies an outcome whose bytes are about to be overwritten. Large ones, and descriptors, are moved out of the
  /// reader that returned them.
  void keep(Outcome outcome, FrameReader* reader = nullptr);
  /// Those that came with the result.
  DescriptorList& descriptors() noexcept { return descriptors_; }

  /// Of the outcome, while its completion is resumed.
  ByteBuffer take_body() noexcept { return std::move(body_); }

  /// Constructs a completion in the call's own memory, if it fits, before anybody else can see it; set_completion()
  /// publishes it.
  template <class T, class... A>
  Completion* construct_completion(A&&... args) {
    if constexpr (sizeof(T) <= sizeof(storage_) && alignof(T) <= alignof(std::max_align_t))
      return ::new (static_cast<void*>(storage_)) T(std::forward<A>(args)...);
    else
      return new T(std::forward<A>(args)...);
  }
  /// With the dispatcher's mutex held.
  void set_completion(Completion* completion) noexcept { completion_ = completion; }
  Completion* completion() const noexcept { return completion_; }

  void destroy_completion() noexcept { destroy(std::exchange(completion_, nullptr)); }

  void destroy(Completion* completion) noexcept {
    if (completion == nullptr) return;
    if (static_cast<void*>(completion) == static_cast<void*>(storage_))
      completion->~Completion();
    else
      delete completion;
  }

  bool same_executor = false;                 // the awaiting coroutine's is the dispatcher's: see AwaitedCalls
  std::shared_ptr<ContextRegistry> registry;  // otherwise, of the awaiting coroutine's context
  std::shared_ptr<Call> kept;                 // itself, see CallPool

  /// Posts the completion to the coroutine's executor, with the kept outcome. Without the dispatcher's mutex.
  void post_completion();
  /// The context of the waiting handler is being destroyed: nobody waits any more. Without the dispatcher's mutex.
  void lose_caller() noexcept;

  /// Posts the completion with a failure. Without the dispatcher's mutex.
  static void complete_with_error(std::shared_ptr<Call> call, std::exception_ptr failure);

  static void complete_with_kept_outcome(std::shared_ptr<Call> call);

  /// For completions: posts complete_with_kept_outcome() and does nothing else.
  static void enqueue_completion(std::shared_ptr<Call> call, const asio::any_io_executor& executor);

  /// For completions, in resume(): destroys the completion. The call may be reused.
  static void give_back(std::shared_ptr<Call> call);

  /// The name of its routine, for texts.
  std::string routine() const;
  /// See CallOptions::context.
  std::string context() const;

  /// Prepares for another call. Keeps up to so many bytes of each buffer.
  void reset(std::size_t most_kept) noexcept;

  ~Call() { destroy_completion(); }

 private:
  void context_destroyed() noexcept override { lose_caller(); }

  Completion* completion_ = nullptr;
  std::exception_ptr failure_;
  ResultStatus status_{};
  ByteBuffer body_;
  DescriptorList descriptors_{DescriptorList::Close::elsewhere};
  alignas(std::max_align_t) std::byte storage_[192];
};

}}}  // namespace drover::v1::detail
