#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/post.hpp>

#include <drover/error.hpp>
#include <drover/os/detail/cpu.hpp>
#include <drover/worker/detail/call_executor.hpp>
#include <drover/worker/detail/call_loop.hpp>
#include <drover/worker/detail/control_thread.hpp>
#include <drover/worker/detail/hello.hpp>
#include <drover/worker/detail/run_routine.hpp>
#include <drover/worker/detail/stop_token_thread.hpp>
#include <drover/worker/detail/take_slot.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline CallLoop::CallLoop(WorkerState& state, const RoutineTable& routines, const WorkerHooks& hooks)
    : state_(state),
      routines_(routines),
      hooks_(hooks),
      limit_(std::min<std::uint64_t>(state.environment.max_message_size, std::numeric_limits<std::uint32_t>::max())),
      data_(state.data),
      waits_(context_, *this, state.main_wakeup, data_,
             std::chrono::nanoseconds(std::clamp<std::int64_t>(state.environment.spin_ns, 0, never / 4))) {}

inline void CallLoop::begin() {
  if (any_is_coroutine(hooks_.start)) waits_.share_context();  // they may have left work on it
  if (routines_.any_takes_stop_token()) start_stop_token_thread(state_);
  if (routines_.any_takes_descriptors()) data_.receive_descriptors(true);
  state_.phase.store(WorkerState::Phase::serving);
  if (!send_hello(state_.control.get(), routines_.names())) connection_lost();
  state_.greeted.store(true);
  waits_.watch_wakeup();
  watch_data();
}

inline void CallLoop::run() {
  while (!finished_) waits_.run();  // a routine may have stopped the context
}

// Reading -----------------------------------------------------------------------------------------

inline void CallLoop::readable() {
  // A lone frame is rarely followed by another one: to wait costs less than to read again. The rounds are bounded, so
  // that coroutines get their turn.
  for (int round = 0; round < 16 && !held_ && !all_read() && receive(); ++round)
    if (take_frames() == 1 && !data_.reader().mid_frame()) break;
  go_on();
}

/// Returns true if something was received.
inline bool CallLoop::receive() {
  try {
    const Channel::Received received = data_.receive();
    if (received == Channel::Received::closed) connection_lost();
    return received == Channel::Received::some;
  } catch (const std::system_error&) {  // other code of this process has closed the socket
    connection_lost();
    return false;
  }
}

/// Returns the number of frames.
inline std::size_t CallLoop::take_frames() {
  std::size_t count = 0;
  held_ = true;
  state_.owes_results.store(true, std::memory_order_relaxed);
  now_ = Clock::now();
  try {
    for (Clock::time_point began; !full_ && !parent_gone_; ++count) {
      if (count == 1) began = now_;
      const Frame* const next = incoming_.next();
      if (next == nullptr) {
        held_ = false;
        break;
      }
      const bool for_stream = CallStreams::is_for_stream(next->header.type);
      if (!for_stream) poll_flags();
      if (takes_no_more_ && !for_stream) {  // the parent gives these calls to another worker
        incoming_.drop_next();
        continue;
      }
      if (count > 1 && !coroutines_.empty() && now_ - began >= longest_wait) break;  // coroutines get their turn
      if (must_wait()) break;
      accept(incoming_.take());
      incoming_.descriptors().clear();  // those that the routine has not taken
    }
  } catch (const Error&) {  // a protocol error: later frames are meaningless
    held_ = false;
    connection_lost();
  }
  return count;
}

inline void CallLoop::accept(const Frame& frame) {
  const FrameHeader& call = frame.header;
  if (CallStreams::is_for_stream(call.type))
    return streams_.receive(frame, data_.reader(), state_.last_read.load(std::memory_order_relaxed));
  if (call.type == FrameType::take_slot) return take_slot(state_, frame);
  if (call.type != FrameType::call || call.id <= state_.last_read.load(std::memory_order_relaxed))
    throw Error(Errc::protocol_error, "unexpected frame on the data socket");
  if (data_.wants_write() && now_ - unsent_since_ >= longest_wait) flush();
  current_ = call.id;
  current_cancelled_ = early_cancels_.erase(call.id) != 0;
  state_.last_read.store(call.id, std::memory_order_release);
  add_one(state_.read);
  if ((call.status & ahead_flag) != 0 && !state_.gate.begin(call.id)) return given_back(call.id);
  try {
    dispatch(frame);
  } catch (const std::bad_alloc&) {
    coroutines_.erase(call.id);
    count_coroutines();
    state_.late_flush.end();
    streams_.close(call.id);
    state_.sources.remove(call.id);
    encode_texts(scratch_, limit_, {"std::bad_alloc", "out of memory"});
    now_ = Clock::now();
    answer(call, ResultStatus::remote_error, scratch_);
    ended(false);
  }
}

inline void CallLoop::dispatch(const Frame& frame) {
  const FrameHeader& call = frame.header;
  Decoder body(frame.body, incoming_.descriptors(), spare_memory(limit_));
  std::string_view name;
  CallFacts facts;
  try {
    if ((call.status & facts_flag) != 0) facts = take_facts(body);
    name = body.get<std::string_view>();
  } catch (const DecodeError& e) {
    return refuse(call, ResultStatus::bad_arguments, std::string("malformed call: ") + e.what());
  }
  if (last_routine_ == nullptr || last_routine_->first != name) {
    const auto* const found = routines_.find_entry(name);
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

inline void CallLoop::run_plain(const FrameHeader& header, Routine& routine, std::string_view name, Decoder& arguments,
                                const CallFacts& facts) {
  const FrameHeader call = header;
  CallInputs inputs;
  if (routine.takes_stop_token()) {
    inputs.stop = state_.sources.add(call.id);
    poll_flags();  // after add(), so that no cancellation for the stop-token thread is lost
  }
  if (is_cancelled() || takes_no_more_) {
    if (routine.takes_stop_token()) state_.sources.remove(call.id);
    if (takes_no_more_) return forget_call();
    return refuse(call, ResultStatus::cancelled, "cancelled before it began", true);
  }
  if (routine.stream_flags != 0) [[unlikely]]
    inputs.stream = open_stream(call, routine);
  // Finished results must not wait for a routine that may be slow, or may crash this process.
  if (routine.quick_runs < trusted_after && data_.wants_write()) {
    flush();
    now_ = Clock::now();
  }
  begun_ = call.id;
  const Clock::time_point began = now_;
  scratch_.clear();
  scratch_.allow_descriptors((call.status & takes_descriptors_flag) != 0);
  bool cancelled = false;
  RunningCall running(call.id, deadline_of(facts, began), facts.context, noticed_);
  running.attempt = call.attempt + 1U;
  const ResultStatus status = run_and_encode(scratch_, limit_, name, routine, cancelled, [&] {
    const CurrentCallScope here(&running);
    if (inputs.stream) state_.late_flush.begin();
    try {
      routine.run(arguments, inputs, scratch_);
    } catch (...) {
      cancelled = inputs.stop.stop_requested() || (inputs.stream && is_cancelled());
      throw;
    }
  });
  if (inputs.stream) {
    state_.late_flush.end();
    streams_.close(call.id);
  }
  if (routine.takes_stop_token()) state_.sources.remove(call.id);
  poll_flags();
  now_ = Clock::now();
  const bool quick = now_ - began < longest_wait;
  answer(call, status, scratch_, quick);
  routine.quick_runs = quick ? std::min(routine.quick_runs + 1, trusted_after) : 0;
  ended(is_cancelled() && status != ResultStatus::ok);
}

inline void CallLoop::start_coroutine(const Frame& frame, Routine& routine) {
  auto owned = std::make_unique<CoroutineCall>();
  CoroutineCall& call = *owned;
  call.header = frame.header;
  call.routine = &routine;
  call.body = incoming_.take_body();
  call.descriptors = std::move(incoming_.descriptors());
  call.result.allow_descriptors((call.header.status & takes_descriptors_flag) != 0);
  Decoder arguments(call.body.view(), call.descriptors, spare_memory(limit_));
  CallFacts facts;
  if ((call.header.status & facts_flag) != 0) facts = take_facts(arguments);
  call.running = std::make_shared<RunningCall>(call.header.id, deadline_of(facts, now_), facts.context, noticed_);
  call.running->attempt = call.header.attempt + 1U;
  call.name = arguments.get<std::string_view>();
  coroutines_.emplace(call.header.id, std::move(owned));
  CallInputs inputs;
  if (routine.takes_stop_token()) inputs.stop = state_.sources.add(call.header.id);
  poll_flags();
  if (call.cancelled || is_cancelled() || takes_no_more_) {
    if (routine.takes_stop_token()) state_.sources.remove(call.header.id);
    const auto taken = coroutines_.extract(call.header.id);
    if (takes_no_more_) return forget_call();
    return refuse(call.header, ResultStatus::cancelled, "cancelled before it began", true);
  }
  begun_ = call.header.id;
  count_coroutines();
  waits_.share_context();
  if (routine.stream_flags != 0) inputs.stream = open_stream(call.header, routine);
  const CallExecutor executor(context_.get_executor(), call.running);
  asio::co_spawn(executor, routine.start(arguments, std::move(inputs), call.result),
                 asio::bind_cancellation_slot(call.cancellation.slot(), [this, &call](std::exception_ptr failure) {
                   coroutine_ended(call, std::move(failure));
                 }));
}

inline void CallLoop::coroutine_ended(CoroutineCall& call, std::exception_ptr failure) {
  auto owned = coroutines_.extract(call.header.id);
  call.running->end();
  if (call.routine->takes_stop_token()) state_.sources.remove(call.header.id);
  if (call.routine->stream_flags != 0) streams_.close(call.header.id);
  poll_flags();
  const ResultStatus status = run_and_encode(call.result, limit_, call.name, *call.routine, call.cancelled, [&] {
    if (failure) std::rethrow_exception(failure);
  });
  now_ = Clock::now();
  answer(call.header, status, call.result);
  ended(call.cancelled && status != ResultStatus::ok);
  count_coroutines();
  over_.push_back(std::move(owned.mapped()));
  waits_.go_on_later();
}

// Writing -----------------------------------------------------------------------------------------

inline void CallLoop::answer(const FrameHeader& call, ResultStatus status, FrameBody& body, bool quick) {
  FrameHeader header;
  header.type = FrameType::result;
  header.status = static_cast<std::uint8_t>(status);
  if (quick && (call.status & wants_quick_flag) != 0) header.status |= quick_flag;
  header.slot = call.slot;
  header.id = call.id;
  header.core = current_core();
  begun_ = std::max(begun_, call.id);
  const bool first = !data_.wants_write();
  data_.queue(header, body);
  body.clear();
  if (first) {
    unsent_since_ = now_;
    state_.owes_results.store(true, std::memory_order_relaxed);
  }
  if (data_.gathered_enough(header.core, call.core)) flush();
}

inline void CallLoop::refuse(const FrameHeader& call, ResultStatus status, std::string_view text, bool cancelled) {
  encode_texts(scratch_, limit_, {text});
  now_ = Clock::now();
  answer(call, status, scratch_);
  ended(cancelled);
}

inline void CallLoop::ended(bool cancelled) {
  if (draining_) add_one(cancelled ? state_.cancelled : state_.drained);
  state_.idle_since.store(now_.time_since_epoch().count(), std::memory_order_relaxed);
  add_one(state_.ended);
}

inline void CallLoop::flush() {
  const std::error_code error = data_.flush();
  full_ = !error && data_.wants_write();
  if (error) connection_lost();  // callers would wait for their answers in vain
}

}}}  // namespace drover::v1::detail
