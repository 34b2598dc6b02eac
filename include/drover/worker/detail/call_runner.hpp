#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/error.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/call_executor.hpp>
#include <drover/worker/detail/call_waits.hpp>
#include <drover/worker/detail/control_thread.hpp>
#include <drover/worker/detail/coroutine_calls.hpp>
#include <drover/worker/detail/incoming_frames.hpp>
#include <drover/worker/detail/loop_control.hpp>
#include <drover/worker/detail/outgoing_frames.hpp>
#include <drover/worker/detail/routine_table.hpp>
#include <drover/worker/detail/run_routine.hpp>
#include <drover/worker/detail/running_call.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/stream_loop.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Runs the routine of each CALL, and answers it.
///
/// Plain routines run while frames are being read, coroutines when the io_context resumes them.
class CallRunner {
 public:
  /// The main loop that it is a part of.
  struct Surroundings {
    WorkerState& state;
    const RoutineTable& routines;
    asio::io_context& context;
    CallWaits& waits;
    LoopControl& control;
    CoroutineCalls& coroutines;
    IncomingFrames& incoming;
    OutgoingFrames& outgoing;
    StreamLoop& streams;
    std::size_t limit;  // the largest result, in bytes
  };

  explicit CallRunner(const Surroundings& loop) : loop_(loop) {}
  CallRunner(const CallRunner&) = delete;
  CallRunner& operator=(const CallRunner&) = delete;

  /// When the last call ended, or the reading of calls began.
  Clock::time_point now() const noexcept { return now_; }
  void reading_begins() noexcept { now_ = Clock::now(); }
  /// The last call that has begun; 0: none has.
  std::uint64_t begun() const noexcept { return begun_; }

  /// A CALL that was not seen before.
  void accept(const Frame& frame);

  bool is_cancelled(std::uint64_t call) const noexcept {
    if (loop_.control.cancelling()) return true;
    const CoroutineCall* const found = loop_.coroutines.find(call);
    return found != nullptr ? found->cancelled : call == current_ && current_cancelled_;
  }
  void cancel(std::uint64_t call, CancelReason reason) {
    if (call > loop_.state.last_read.load(std::memory_order_relaxed)) {
      early_cancels_.insert(call);  // CANCEL has overtaken its CALL
      return;
    }
    if (call == current_) current_cancelled_ = true;
    loop_.coroutines.cancel(call, reason);
  }

 private:
  static constexpr unsigned trusted_after = 32;  // quick runs in a row, after which a result may wait for the next one

  bool is_cancelled() const noexcept { return loop_.control.cancelling() || current_cancelled_; }

  void dispatch(const Frame& frame);
  void run_plain(const FrameHeader& call, Routine& routine, std::string_view name, Decoder& arguments,
                 const CallFacts& facts);
  void run_streaming(const FrameHeader& call, Routine& routine);
  void start_coroutine(const Frame& frame, Routine& routine);
  void coroutine_ended(CoroutineCall& call, std::exception_ptr failure);

  void answer(const FrameHeader& call, ResultStatus status, FrameBody& body, bool quick = false);
  void refuse(const FrameHeader& call, ResultStatus status, std::string_view text, bool cancelled = false);
  void refuse_stream(const FrameHeader& call, const Routine& routine, std::string_view name);
  void refuse_before_begin(const FrameHeader& call);
  void ended(bool cancelled);
  void forget_call();
  void given_back(std::uint64_t call);

  const Surroundings loop_;
  std::unordered_set<std::uint64_t> early_cancels_;  // of calls that have not been read yet
  FrameBody scratch_{4096};
  Clock::time_point now_;
  const RoutineTable::Entry* last_routine_ = nullptr;  // the one that was called last: calls often are of the same
  std::uint64_t current_ = 0;                          // the call being accepted or run
  bool current_cancelled_ = false;
  std::uint64_t begun_ = 0;
};

inline void CallRunner::accept(const Frame& frame) {
  const FrameHeader& call = frame.header;
  loop_.outgoing.flush_if_late(now_);
  current_ = call.id;
  current_cancelled_ = !early_cancels_.empty() && early_cancels_.erase(call.id) != 0;
  loop_.state.last_read.store(call.id, std::memory_order_release);
  add_one(loop_.state.read);
  if ((call.status & ahead_flag) != 0 && !loop_.state.gate.begin(call.id)) return given_back(call.id);
  try {
    dispatch(frame);
  } catch (const std::bad_alloc&) {
    loop_.coroutines.remove(call.id);
    loop_.coroutines.publish_count();
    loop_.state.late_flush.end();
    loop_.streams.close(call.id);
    loop_.state.sources.remove(call.id);
    encode_texts(scratch_, loop_.limit, {"std::bad_alloc", "out of memory"});
    now_ = Clock::now();
    answer(call, ResultStatus::remote_error, scratch_);
    ended(false);
  }
}

inline void CallRunner::dispatch(const Frame& frame) {
  const FrameHeader& call = frame.header;
  Decoder body(frame.body, loop_.incoming.descriptors(), spare_memory(loop_.limit));
  std::string_view name;
  CallFacts facts;
  try {
    if ((call.status & facts_flag) != 0) facts = take_facts(body);
    name = body.get<std::string_view>();
  } catch (const DecodeError& e) {
    return refuse(call, ResultStatus::bad_arguments, std::string("malformed call: ") + e.what());
  }
  if (last_routine_ == nullptr || last_routine_->first != name) {
    const auto* const found = loop_.routines.find_entry(name);
    if (found == nullptr)
      return refuse(call, ResultStatus::unknown_routine,
                    "this worker has no routine named \"" + std::string(name) + '"');
    last_routine_ = found;
  }
  Routine& routine = *last_routine_->second;
  if (routine.stream_flags != (call.status & (items_out_flag | items_in_flag))) [[unlikely]]
    return refuse_stream(call, routine, name);
  if (routine.is_coroutine()) return start_coroutine(frame, routine);
  if (routine.stream_flags != 0) return run_streaming(call, routine);
  run_plain(call, routine, name, body, facts);
}

inline void CallRunner::run_plain(const FrameHeader& header, Routine& routine, std::string_view name,
                                  Decoder& arguments, const CallFacts& facts) {
  const FrameHeader call = header;
  CallInputs inputs;
  if (routine.takes_stop_token()) {
    inputs.stop = loop_.state.sources.add(call.id);
    loop_.control.poll_flags();  // after add(), so that no cancellation for the stop-token thread is lost
  }
  if (is_cancelled() || loop_.control.takes_no_more()) {
    if (routine.takes_stop_token()) loop_.state.sources.remove(call.id);
    return refuse_before_begin(call);
  }
  if (routine.stream_flags != 0) [[unlikely]]
    inputs.stream = loop_.streams.open(call, false);
  // Finished results must not wait for a routine that may be slow, or may crash this process.
  if (routine.quick_runs < trusted_after && loop_.outgoing.has_unsent()) {
    loop_.outgoing.flush();
    now_ = Clock::now();
  }
  begun_ = call.id;
  const bool begun_waits = (call.status & wants_begun_flag) != 0 && !loop_.outgoing.send_begun(call, now_);
  const Clock::time_point began = now_;
  scratch_.clear();
  scratch_.allow_descriptors((call.status & takes_descriptors_flag) != 0);
  bool cancelled = false;
  RunningCall running(call.id, deadline_of(facts, began), facts.context, loop_.control.noticed());
  running.attempt = call.attempt + 1U;
  const ResultStatus status = run_and_encode(scratch_, loop_.limit, name, routine, cancelled, [&] {
    const CurrentCallScope here(&running);
    if (inputs.stream) loop_.state.late_flush.begin();
    if (begun_waits && loop_.state.late_flush.resume(true, now_)) loop_.state.control_wakeup.notify();
    try {
      routine.run(arguments, inputs, scratch_);
    } catch (...) {
      cancelled = inputs.stop.stop_requested() || (inputs.stream && is_cancelled());
      throw;
    }
  });
  if (inputs.stream || begun_waits) loop_.state.late_flush.end();
  if (inputs.stream) loop_.streams.close(call.id);
  if (routine.takes_stop_token()) loop_.state.sources.remove(call.id);
  loop_.control.poll_flags();
  now_ = Clock::now();
  const bool quick = now_ - began < OutgoingFrames::longest_wait;
  answer(call, status, scratch_, quick);
  routine.quick_runs = quick ? std::min(routine.quick_runs + 1, trusted_after) : 0;
  ended(is_cancelled() && status != ResultStatus::ok);
}

/// The routine may read the socket while it runs, so its arguments do not stay in the reader.
inline void CallRunner::run_streaming(const FrameHeader& call, Routine& routine) {
  const FrameHeader header = call;
  const ByteBuffer body = loop_.incoming.take_body();
  DescriptorList descriptors = std::move(loop_.incoming.descriptors());
  Decoder arguments(body.view(), descriptors, spare_memory(loop_.limit));
  CallFacts facts;
  if ((header.status & facts_flag) != 0) facts = take_facts(arguments);
  const auto name = arguments.get<std::string_view>();
  run_plain(header, routine, name, arguments, facts);
}

inline void CallRunner::start_coroutine(const Frame& frame, Routine& routine) {
  auto owned = std::make_unique<CoroutineCall>();
  CoroutineCall& call = *owned;
  call.header = frame.header;
  call.routine = &routine;
  call.body = loop_.incoming.take_body();
  call.descriptors = std::move(loop_.incoming.descriptors());
  call.result.allow_descriptors((call.header.status & takes_descriptors_flag) != 0);
  Decoder arguments(call.body.view(), call.descriptors, spare_memory(loop_.limit));
  CallFacts facts;
  if ((call.header.status & facts_flag) != 0) facts = take_facts(arguments);
  call.running =
      std::make_shared<RunningCall>(call.header.id, deadline_of(facts, now_), facts.context, loop_.control.noticed());
  call.running->attempt = call.header.attempt + 1U;
  call.name = arguments.get<std::string_view>();
  loop_.coroutines.add(std::move(owned));
  CallInputs inputs;
  if (routine.takes_stop_token()) inputs.stop = loop_.state.sources.add(call.header.id);
  loop_.control.poll_flags();
  if (call.cancelled || is_cancelled() || loop_.control.takes_no_more()) {
    if (routine.takes_stop_token()) loop_.state.sources.remove(call.header.id);
    const auto taken = loop_.coroutines.remove(call.header.id);
    return refuse_before_begin(call.header);
  }
  begun_ = call.header.id;
  if ((call.header.status & wants_begun_flag) != 0) loop_.outgoing.send_begun(call.header, now_);
  loop_.coroutines.publish_count();
  loop_.waits.share_context();
  if (routine.stream_flags != 0) inputs.stream = loop_.streams.open(call.header, true);
  const CallExecutor executor(loop_.context.get_executor(), call.running);
  asio::co_spawn(executor, routine.start(arguments, std::move(inputs), call.result),
                 asio::bind_cancellation_slot(call.cancellation.slot(), [this, &call](std::exception_ptr failure) {
                   coroutine_ended(call, std::move(failure));
                 }));
}

inline void CallRunner::coroutine_ended(CoroutineCall& call, std::exception_ptr failure) {
  auto owned = loop_.coroutines.remove(call.header.id);
  call.running->end();
  if (call.routine->takes_stop_token()) loop_.state.sources.remove(call.header.id);
  if (call.routine->stream_flags != 0) loop_.streams.close(call.header.id);
  loop_.control.poll_flags();
  const ResultStatus status = run_and_encode(call.result, loop_.limit, call.name, *call.routine, call.cancelled, [&] {
    if (failure) std::rethrow_exception(failure);
  });
  now_ = Clock::now();
  answer(call.header, status, call.result);
  ended(call.cancelled && status != ResultStatus::ok);
  loop_.coroutines.publish_count();
  loop_.coroutines.keep_ended(std::move(owned));
  loop_.waits.go_on_later();
}

// The answer ----------------------------------------------------------------------------------------------------------

inline void CallRunner::answer(const FrameHeader& call, ResultStatus status, FrameBody& body, bool quick) {
  FrameHeader header;
  header.type = FrameType::result;
  header.status = static_cast<std::uint8_t>(status);
  if (quick && (call.status & wants_quick_flag) != 0) header.status |= quick_flag;
  header.slot = call.slot;
  header.id = call.id;
  begun_ = std::max(begun_, call.id);
  loop_.outgoing.queue_result(header, body, now_, call.core);
}

inline void CallRunner::refuse(const FrameHeader& call, ResultStatus status, std::string_view text, bool cancelled) {
  encode_texts(scratch_, loop_.limit, {text});
  now_ = Clock::now();
  answer(call, status, scratch_);
  ended(cancelled);
}

inline void CallRunner::refuse_stream(const FrameHeader& call, const Routine& routine, std::string_view name) {
  const auto described = [](unsigned flags) -> std::string {
    if (flags == 0) return "no items";
    if (flags == items_out_flag) return "items from the routine";
    return flags == items_in_flag ? "items from the caller" : "items in both directions";
  };
  refuse(call, ResultStatus::bad_arguments,
         std::string(name) + routine.parameters() + " has " + described(routine.stream_flags) + ", its caller has " +
             described(call.status & (items_out_flag | items_in_flag)) + "; call it by stream<Result, Out, In>()");
}

/// The call is cancelled, or the parent gives it to another worker.
inline void CallRunner::refuse_before_begin(const FrameHeader& call) {
  if (loop_.control.takes_no_more()) return forget_call();
  refuse(call, ResultStatus::cancelled, "cancelled before it began", true);
}

inline void CallRunner::ended(bool cancelled) {
  if (loop_.control.draining()) add_one(cancelled ? loop_.state.cancelled : loop_.state.drained);
  loop_.state.idle_since.store(now_.time_since_epoch().count(), std::memory_order_relaxed);
  add_one(loop_.state.ended);
}

/// Discounts the call that was about to begin: it was returned to the parent.
inline void CallRunner::forget_call() { loop_.state.read.store(loop_.state.read.load() - 1); }

/// The control thread has given the call back. It may not have sent RECALLED before this process exits: whichever comes
/// first counts.
inline void CallRunner::given_back(std::uint64_t call) {
  forget_call();
  if (!ControlReply(FrameType::recalled, call).send_for_certain(loop_.state.control.get()))
    loop_.control.connection_lost();
}

}}}  // namespace drover::v1::detail
