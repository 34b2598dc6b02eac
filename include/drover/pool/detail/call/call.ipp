#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/error.hpp>

#include <drover/detail/context/post_untracked.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::exception_ptr aborted() noexcept {
  const std::error_code code = asio::error::operation_aborted;
  try {
    return std::make_exception_ptr(std::system_error(code));
  } catch (...) {  // its text takes memory
    return std::current_exception();
  }
}

DROVER_INLINE std::exception_ptr forked_copy() {
  return std::make_exception_ptr(
      Error(Errc::not_running, "the worker belongs to the program that this one was forked from"));
}

DROVER_INLINE std::exception_ptr refusal_of(const Outcome& outcome) {
  Decoder body(outcome.body);
  auto text = body.get<std::string>();
  const auto failed = [&](Errc code) {
    body.finish();
    return std::make_exception_ptr(Error(code, text));
  };
  switch (outcome.status) {
    case ResultStatus::remote_error: {
      auto what = body.get<std::string>();
      body.finish();
      return std::make_exception_ptr(RemoteError(std::move(text), std::move(what)));
    }
    case ResultStatus::unknown_routine: return failed(Errc::unknown_routine);
    case ResultStatus::bad_arguments: return failed(Errc::bad_arguments);
    case ResultStatus::message_too_large: return failed(Errc::message_too_large);
    case ResultStatus::cancelled:
      return std::make_exception_ptr(Error(Errc::stopping, "the call was cancelled because its worker is stopping"));
    case ResultStatus::ok: break;
  }
  throw DecodeError("unknown result status");
}

/// The posted function that invokes a completion. If a context that is being destroyed drops it, it destroys the
/// completion, even if the call lives on: a routine that has not ended yet may keep that for long.
class PostedCompletion {
 public:
  explicit PostedCompletion(std::shared_ptr<Call> call) noexcept : call_(std::move(call)) {}
  PostedCompletion(PostedCompletion&&) noexcept = default;
  PostedCompletion& operator=(PostedCompletion&&) = delete;
  ~PostedCompletion() {
    if (call_ && !ContextRegistry::PostScope::postpone(call_, drop)) drop(call_.get());
  }

  void operator()() { Call::complete_with_kept_outcome(std::move(call_)); }

 private:
  static void drop(void* dropped) noexcept { static_cast<Call*>(dropped)->destroy_completion(); }

  std::shared_ptr<Call> call_;
};

DROVER_INLINE void Call::keep(Outcome outcome, FrameReader* reader) {
  body_.clear();
  if (reader != nullptr && outcome.body.size() > FrameReader::usual_buffer_size)
    body_ = reader->take_body();
  else
    body_.append(outcome.body);
  failure_ = std::move(outcome.failure);
  status_ = outcome.status;
  has_outcome = true;
  if (reader != nullptr && reader->holds_descriptors()) [[unlikely]]
    descriptors_ = std::move(reader->descriptors());
}

DROVER_INLINE void Call::post_completion() {
  const auto owner = dispatcher.lock();
  std::unique_lock<std::mutex> held;
  if (owner) held = owner->lock();
  const bool with_dispatcher = owner && same_executor;
  const std::shared_ptr<ContextRegistry> at = with_dispatcher ? owner->registry() : registry;
  const ContextRegistry::PostScope posting(*at);
  if (at->closed()) return;
  auto self = with_dispatcher ? owner->awaited().take(*this) : std::static_pointer_cast<Call>(at->remove(*this));
  if (held.owns_lock()) held.unlock();
  if (self) completion_->post(std::move(self));
}

DROVER_INLINE void Call::complete_with_error(std::shared_ptr<Call> call, std::exception_ptr failure) {
  const auto dispatcher = call->dispatcher.lock();
  if (!dispatcher) return;
  {
    const auto held = dispatcher->lock();
    call->keep({std::move(failure), {}, {}});
    if (call->completion() == nullptr) return;  // not awaited yet
  }
  call->post_completion();
}

DROVER_INLINE void Call::complete_with_kept_outcome(std::shared_ptr<Call> call) {
  Outcome outcome{std::exchange(call->failure_, nullptr), call->status_, call->body_.view()};
  Completion* const completion = call->completion_;
  completion->resume(std::move(call), outcome);
}

DROVER_INLINE void Call::enqueue_completion(std::shared_ptr<Call> call, const asio::any_io_executor& executor) {
  post_untracked(executor, PostedCompletion(std::move(call)));
}

DROVER_INLINE void Call::give_back(std::shared_ptr<Call> call) {
  call->destroy_completion();
  if (const auto owner = call->dispatcher.lock()) owner->recycle(std::move(call));
}

DROVER_INLINE std::string Call::routine() const {
  constexpr std::size_t longest = 100;
  Decoder body(request.front());
  if (has_facts) take_facts(body);
  const auto name = body.get<std::string_view>();
  return std::string(name.substr(0, longest)) + (name.size() > longest ? "..." : "");
}

DROVER_INLINE std::string Call::context() const {
  if (!has_facts) return {};
  Decoder body(request.front());
  return std::string(take_facts(body).context);
}

DROVER_INLINE CallNames CallNames::of(const Call* call) noexcept {
  try {
    if (call != nullptr) return {.routine = call->routine(), .context = call->context()};
  } catch (const std::exception&) {
  }
  return {};
}

DROVER_INLINE void Call::reset(std::size_t most_kept) noexcept {
  if (request.buffer().capacity() > most_kept) request = FrameBody();
  if (body_.capacity() > most_kept) body_ = ByteBuffer();
  state = CallState::queued;
  due.reset();
  run_for.reset();
  kill_after.reset();
  attempt = 0;
  only = 0;
  has_facts = false;
  declaration = nullptr;
  stream.reset();
  link = nullptr;
  slot = 0;
  id = 0;
  request.clear();
  has_outcome = false;
  failure_ = nullptr;
  body_.clear();
  descriptors_.clear();
  registry.reset();
  same_executor = false;
}

DROVER_INLINE void Call::lose_caller() noexcept {
  const auto owner = dispatcher.lock();
  Completion* completion = nullptr;
  {
    std::unique_lock<std::mutex> held;
    if (owner) held = owner->lock();
    completion = std::exchange(completion_, nullptr);
  }
  if (owner) owner->cancel(*this, CallEvent::cancelled, nullptr);
  destroy(completion);  // last: it may own what the call borrows
}

}}}  // namespace drover::v1::detail
