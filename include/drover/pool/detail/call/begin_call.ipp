#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/execution.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>

#include <drover/detail/current_call.hpp>
#include <drover/detail/type_name.hpp>
#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
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

DROVER_INLINE std::shared_ptr<Call> allocate_call(const std::shared_ptr<Dispatcher>& dispatcher,
                                                  const CallOptions& options) {
  if (!dispatcher) std::rethrow_exception(empty_handle());
  check(options);
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

/// What is added to the text of an error that concerns the types of a call.
inline std::string declared_text(const Call& call) {
  if (call.declaration == nullptr) return {};
  return "; the caller declares the routine as " + readable(type_in(call.declaration));
}

DROVER_INLINE void throw_failure(const Call& call, const Outcome& outcome) {
  if (call.declaration != nullptr && outcome.status == ResultStatus::bad_arguments)
    throw Error(Errc::bad_arguments, Decoder(outcome.body).get<std::string>() + declared_text(call));
  std::rethrow_exception(outcome.failure);
}

DROVER_INLINE Error wrong_result(const Call& call, const DecodeError& error) {
  return Error(Errc::bad_arguments, std::string("the result is not of the type that call() asked for: ") +
                                        what_of(error) + declared_text(call));
}

DROVER_INLINE void submit(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, const CallOptions& options) {
  dispatcher.submit(call, options);
}

DROVER_INLINE CallCompletionBase::CallCompletionBase(asio::cancellation_slot slot,
                                                     const asio::any_io_executor& executor)
    : slot_(slot), work_(asio::prefer(executor, asio::execution::outstanding_work.tracked)) {}

DROVER_INLINE asio::any_io_executor CallCompletionBase::close() noexcept {
  if (slot_.is_connected()) slot_.clear();
  return std::move(work_);
}

DROVER_INLINE bool publish(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, Completion* completion,
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

DROVER_INLINE void PendingCall::cancel_unawaited() { dispatcher_->cancel(*call_, CallEvent::cancelled, nullptr); }

DROVER_INLINE void PendingCall::cancel(std::shared_ptr<Call> call) {
  if (!call) return;
  if (const auto dispatcher = call->dispatcher.lock()) dispatcher->cancel(*call, CallEvent::cancelled, aborted());
}

}}}  // namespace drover::v1::detail
