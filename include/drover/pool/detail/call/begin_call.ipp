#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/execution.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>
#include <asio/system_executor.hpp>

#include <drover/detail/current_call.hpp>
#include <drover/detail/type_name.hpp>
#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/call_stream.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::exception_ptr empty_handle() {
  return std::make_exception_ptr(
      Error(Errc::not_running, "this worker or pool object is empty (default-constructed or moved from)"));
}

/// What the routine gets to know of its call precedes its name.
inline void add_facts(Call& call, const CallOptions& options) {
  if (options.deadline) call.due = deadline_after(Clock::now(), options.deadline);
  if (current_call != nullptr && options.inherit_deadline) call.due = earlier(call.due, current_call->deadline);
  CallFacts facts{.context = options.context.value()};
  if (options.run_for) facts.run_for = std::chrono::duration_cast<std::chrono::nanoseconds>(*options.run_for).count();
  if (!call.due && !options.run_for && facts.context.empty()) return;
  if (call.due)
    facts.deadline = std::chrono::duration_cast<std::chrono::nanoseconds>(call.due->time_since_epoch()).count();
  Encoder encoder(call.request.buffer());
  put_facts(encoder, facts);
  call.has_facts = true;
}

/// A call whose request has the options that the routine gets to know. Throws if there is no dispatcher, or for options
/// out of range.
inline std::shared_ptr<Call> allocate_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options) {
  if (!dispatcher) std::rethrow_exception(empty_handle());
  if (&options != &usual_options()) check(options);
  auto call = dispatcher->allocate_call();
  if (options.deadline || options.run_for || current_call != nullptr || !options.context.value().empty())
    add_facts(*call, options);
  return call;
}

DROVER_INLINE void put_borrowed(Encoder& out, FrameBody& body, Borrowed borrowed) {
  const std::span<const std::byte> bytes = borrowed.bytes();
  const Kind kind = borrowed.is_text() ? Kind::text : Kind::bytes;
  if (bytes.size() < worth_moving) return Raw::of(out).tagged_bytes(kind, bytes.data(), bytes.size());
  Raw::of(out).tagged(kind, std::uint64_t{bytes.size()});
  body.insert_borrowed(bytes);
}

DROVER_INLINE std::string declared_text(const char* declaration) {
  if (declaration == nullptr) return {};
  return "; the caller declares the routine as " + readable(type_in(declaration));
}

// The caller alone has it then: one thread destroys it, see Cause.
DROVER_INLINE std::exception_ptr take_failure(const Call& call, Outcome& outcome) noexcept {
  std::exception_ptr failure = std::exchange(outcome.failure, nullptr);
  if (call.declaration == nullptr || !failure || outcome.status != ResultStatus::bad_arguments) return failure;
  try {
    return std::make_exception_ptr(
        Error(Errc::bad_arguments, Decoder(outcome.body).get<std::string>() + declared_text(call.declaration)));
  } catch (...) {  // there is no memory for the text
    return failure;
  }
}

DROVER_INLINE const CallOptions& usual_options() noexcept {
  static const CallOptions options;
  return options;
}

DROVER_INLINE PendingCall send_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                                    RoutineName routine, ArgumentWriter writer, CallKind kind) {
  try {
    auto call = allocate_call(dispatcher, options);
    call->declaration = kind.declaration;
    call->only = kind.only;
    if (kind.stream != nullptr) call->stream = kind.stream->shared_from_this();
    call->takes_descriptors = kind.takes_descriptors;
    Encoder encoder(call->request);
    encoder.put(routine.view());
    writer.write(writer.arguments, encoder, call->request);
    dispatcher->submit(call, options);
    return PendingCall(dispatcher, std::move(call));
  } catch (...) {
    return PendingCall(std::current_exception());
  }
}

/// Publishes the completion of the coroutine that awaits the call. False if its context is destroyed.
inline bool publish(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, Completion* completion,
                    const asio::any_io_executor& executor) {
  bool ended = false;
  {
    auto held = dispatcher.lock();
    if (dispatcher.executor() == executor) {
      call->set_completion(completion);
      dispatcher.awaited().add(call);
    } else {
      if (held.owns_lock()) held.unlock();  // to look the registry up takes locks of the context
      const auto registry = ContextRegistry::of(asio::query(executor, asio::execution::context));
      held = dispatcher.lock();
      const auto registry_lock = registry->lock();
      if (registry->closed()) return false;
      call->registry = registry;
      call->set_completion(completion);
      registry->add(call);
    }
    ended = call->has_outcome;
  }
  if (ended) call->post_completion();
  return true;
}

/// The coroutine that waits for a call.
class CallCompletion final : public Completion {
 public:
  CallCompletion(PendingCall& call, CoroutineFrame& frame, CoroutineThread&& thread,
                 const asio::any_io_executor& executor)
      : call_(call),
        frame_(frame),
        work_(asio::prefer(executor, asio::execution::outstanding_work.tracked)),
        thread_(std::move(thread)) {}

  void post(std::shared_ptr<Call> call) override { Call::enqueue_completion(std::move(call), work_); }

  void resume(std::shared_ptr<Call> call, Outcome& outcome) override {
    const asio::any_io_executor work = std::move(work_);
    Thread thread(std::move(thread_));
    call_.ended_ = std::move(call);
    call_.outcome_ = &outcome;
    thread.resume(frame_);  // destroys this object
  }

 private:
  struct Thread : CoroutineThread {
    explicit Thread(CoroutineThread&& thread) noexcept : CoroutineThread(std::move(thread)) {}
    void resume(CoroutineFrame& frame) {
      frame.attach_thread(this);
      frame.clear_cancellation_slot();
      pump();
    }
  };

  PendingCall& call_;
  CoroutineFrame& frame_;
  asio::any_io_executor work_;
  Thread thread_;
};

DROVER_INLINE CoroutineThread* PendingCall::End::operator()(CoroutineFrame* frame) const {
  call->await(*frame);
  return nullptr;
}

DROVER_INLINE void PendingCall::await(CoroutineFrame& frame) {
  CoroutineThread thread(std::move(*frame.detach_thread()));
  const asio::any_io_executor executor = thread.get_executor();
  asio::cancellation_slot slot = thread.get_cancellation_slot();
  await(call_->construct_completion<CallCompletion>(*this, frame, std::move(thread), executor), slot, executor);
}

DROVER_INLINE void PendingCall::await(Completion* completion, asio::cancellation_slot slot,
                                      const asio::any_io_executor& executor) {
  if (slot.is_connected())
    slot.assign([weak = call_->weak_from_this()](asio::cancellation_type type) {
      if (type != asio::cancellation_type::none) cancel(weak.lock());
    });
  const std::shared_ptr<Call> call = std::exchange(call_, nullptr);
  if (publish(*dispatcher_, call, completion, executor)) return;
  dispatcher_->cancel(*call, CallEvent::cancelled, nullptr);  // its context is destroyed
  call->destroy(completion);                                  // last: it may own what the call borrows
}

DROVER_INLINE asio::any_io_executor executor_of(const std::shared_ptr<Dispatcher>& dispatcher) {
  if (dispatcher) {
    const auto held = dispatcher->lock();
    if (dispatcher->executor()) return *dispatcher->executor();
  }
  return asio::system_executor();
}

DROVER_INLINE void PendingCall::decoding_failed() noexcept {
  try {
    throw;
  } catch (const DecodeError& error) {
    try {
      failure_ = std::make_exception_ptr(
          Error(Errc::bad_arguments, std::string("the result is not of the type that call() asked for: ") +
                                         what_of(error) + declared_text(ended_->declaration)));
    } catch (...) {
      failure_ = std::current_exception();
    }
  } catch (...) {
    failure_ = std::current_exception();
  }
}

DROVER_INLINE void PendingCall::finish() {
  if (!failure_ && outcome_->failure) failure_ = take_failure(*ended_, *outcome_);
  Call::give_back(std::move(ended_));
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

DROVER_INLINE PendingCall::PendingCall(PendingCall&& other) noexcept = default;

DROVER_INLINE PendingCall::~PendingCall() {
  if (call_) dispatcher_->cancel(*call_, CallEvent::cancelled, nullptr);
}

DROVER_INLINE PendingCall::End PendingCall::end() {
  if (failure_) std::rethrow_exception(failure_);
  return End{this};
}

DROVER_INLINE const Outcome* PendingCall::outcome() const noexcept { return outcome_->failure ? nullptr : outcome_; }

DROVER_INLINE std::size_t PendingCall::spare_memory() const noexcept { return ended_->spare_memory; }

DROVER_INLINE std::size_t PendingCall::most_shared() const noexcept {
  return ended_->most_shared - std::min(ended_->most_shared, outcome_->body.size());
}

DROVER_INLINE DescriptorList& PendingCall::descriptors() noexcept { return ended_->descriptors(); }

DROVER_INLINE void PendingCall::cancel(std::shared_ptr<Call> call) {
  if (!call) return;
  if (const auto dispatcher = call->dispatcher.lock()) dispatcher->cancel(*call, CallEvent::cancelled, aborted());
}

}}}  // namespace drover::v1::detail
