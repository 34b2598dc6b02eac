#pragma once

#include <drover/detail/platform.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <drover/wire/codec.hpp>
#include <drover/wire/detail/environment_text.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/on_terminate.hpp>
#include <drover/wire/worker_info.hpp>

/// The contents of the frames between a parent and its workers, and of a worker's environment.
///
/// Control socket: HELLO or START_FAILED (worker, once, with credentials), STOP, STOP_REPLY, CANCEL, STATUS,
/// STATUS_REPLY, DRAINING, RECALL, RECALLED, STALLED. Data socket: TAKE_SLOT, CALL and RESULT; for streams ITEM,
/// LATEST, CREDIT and FINISH.
namespace drover { inline namespace v1 { namespace detail {

inline constexpr std::uint32_t protocol_version = 1;
inline constexpr std::uint32_t protocol_magic = 0x64726f76;  // "drov"

/// The id of a HELLO. It is part of every version, and the header never changes, so that any two versions understand
/// each other's HELLO far enough to name both versions.
inline constexpr std::uint64_t hello_id(std::uint32_t version = protocol_version) noexcept {
  return std::uint64_t{protocol_magic} << 32 | version;
}

/// The version in a HELLO's id; empty if `id` is not such an id.
inline constexpr std::optional<std::uint32_t> hello_version(std::uint64_t id) noexcept {
  if (id >> 32 != protocol_magic) return std::nullopt;
  return static_cast<std::uint32_t>(id);
}

/// Body of HELLO, as encoded by Encoder.
struct Hello {
  std::string version;  // of the library
  std::vector<std::string> routines;
};
inline auto drover_fields(Hello& hello) { return std::tie(hello.version, hello.routines); }

/// How many routines a worker may have. The parent reads and sorts their names on one of its program's threads.
inline constexpr std::size_t max_routines = 16384;

/// Decodes the body of a HELLO.
/// *Errors:* DecodeError; for too many routines before any of their names is read.
inline Hello decode_hello(std::span<const std::byte> body) {
  Decoder head(body);
  expect_fields(Raw::of(head), std::tuple_size_v<decltype(drover_fields(std::declval<Hello&>()))>);
  head.get<std::string_view>();
  Raw::of(head).expect(Kind::sequence);
  const std::size_t routines = Raw::of(head).count(least_size<std::string>());
  if (routines > max_routines)
    throw DecodeError("it announces " + std::to_string(routines) + " routines, at most " +
                      std::to_string(max_routines) + " are allowed");
  Decoder all(body);
  auto hello = all.get<Hello>();
  all.finish();
  return hello;
}

/// The longest text of an exception that a worker sends.
inline constexpr std::size_t longest_error_text = 64 * 1024;

/// Body of START_FAILED, which a worker sends in place of HELLO: the exception of an on_start() or of `prepare`, or why
/// a fork server can never copy itself (cannot_fork in fork_request.hpp).
struct StartFailure {
  std::string type, text;
};

/// Prefix of StartFailure::type if `prepare` of in_worker() has thrown the exception, and not an on_start().
inline constexpr std::string_view from_prepare = "prepare: ";

/// *Errors:* DecodeError.
inline StartFailure decode_start_failure(std::span<const std::byte> body) {
  Decoder all(body);
  const auto type = all.get<std::string_view>();
  const auto text = all.get<std::string_view>();
  all.finish();
  if (std::max(type.size(), text.size()) > longest_error_text)
    throw DecodeError("it has a text of " + std::to_string(std::max(type.size(), text.size())) + " bytes, at most " +
                      std::to_string(longest_error_text) + " are allowed");
  return {std::string(type), std::string(text)};
}

/// Times in StopBody and CallFacts are nanoseconds of CLOCK_MONOTONIC; this value means never.
inline constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();

/// Bytes of CallOptions::context, at most.
inline constexpr std::size_t longest_context = 4096;

/// What the body of a CALL with facts_flag begins with.
struct CallFacts {
  std::int64_t deadline = never;
  std::int64_t run_for = never;  // from the beginning of its routine, in nanoseconds
  std::string_view context;
};

inline void put_facts(Encoder& out, const CallFacts& facts) {
  out.put(facts.deadline);
  out.put(facts.run_for);
  out.put(facts.context);
}

/// *Errors:* DecodeError.
/// *Lifetime:* the context refers to the body.
inline CallFacts take_facts(Decoder& body) {
  CallFacts facts;
  facts.deadline = body.get<std::int64_t>();
  facts.run_for = body.get<std::int64_t>();
  facts.context = body.get<std::string_view>();
  if (facts.context.size() > longest_context)
    throw DecodeError("a context of " + std::to_string(facts.context.size()) + " bytes, at most " +
                      std::to_string(longest_context) + " are allowed");
  return facts;
}

/// Body of CREDIT: the sender of the frame takes so many more bytes of items, see stream_credit.hpp. Slot and id of the
/// frame are those of the call, as with ITEM (an encoded value), LATEST (the same, of which only the last one counts)
/// and FINISH (the caller sends no more items). The first CREDIT of a worker says that the routine has begun; before
/// it, the parent sends no items.
struct CreditBody {
  std::uint64_t bytes = 0;
};

/// Body of TAKE_SLOT, which a spare worker gets before its first CALL: variables for its environment. The header's id
/// is the number of its slot.
using SlotVariables = std::map<std::string, std::string>;

/// *Errors:* DecodeError.
inline SlotVariables decode_slot_variables(std::span<const std::byte> body) {
  Decoder all(body);
  auto variables = all.get<SlotVariables>();
  all.finish();
  return variables;
}

/// Body of STOP; the header's id is that of the last CALL sent before it.
struct StopBody {
  std::int64_t drain_until = never;  // calls may finish until then and are cancelled afterwards
  std::int64_t end_by = never;       // the worker must have exited by then
};

struct StopReply {
  std::uint64_t drained = 0;    // calls that finished by themselves
  std::uint64_t cancelled = 0;  // calls that were cancelled
  std::uint32_t cut = 0;        // 1: calls that still ran were cut off
  std::uint32_t zero = 0;
};

/// A worker sends DRAINING when it exits without having been asked by its parent. The id of the frame is that of the
/// last CALL that the worker has begun or will begin; the parent sends all later calls to another worker. The first
/// DRAINING may come before that is known, and then has this id: the parent sends nothing more.
inline constexpr std::uint64_t nothing_begun_yet = std::numeric_limits<std::uint64_t>::max();

/// Body of STALLED: the main loop has not turned for WorkerOptions::stall. The id of the frame is that of the call
/// whose routine the main thread runs, or no_call.
struct StallBody {
  std::int64_t for_ns = 0;  // since its last turn, at least
};
inline constexpr std::uint64_t no_call = 0;

struct StatusReply {
  std::uint64_t in_flight = 0;
  std::int64_t idle_ns = 0;
  std::uint64_t served = 0;
};

template <class Body>
concept PlainBody = std::is_trivially_copyable_v<Body> && std::has_unique_object_representations_v<Body>;

template <PlainBody Body>
std::span<const std::byte> encode_body(const Body& body) noexcept {
  return std::as_bytes(std::span(&body, 1));
}

/// Empty if the size is not that of a Body.
template <PlainBody Body>
std::optional<Body> decode_body(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() != sizeof(Body)) return std::nullopt;
  Body body;
  std::memcpy(&body, bytes.data(), sizeof body);
  return body;
}

/// Exit code of a worker that was cut off by its own control thread, at the end of its budget.
inline constexpr int exit_cut_off = 1;

/// Exit codes of a worker that cannot work, from which the parent knows why the start failed. The worker's stderr says
/// more.
inline constexpr int exit_without_descriptors = 76;  // those named in the environment did not reach it
inline constexpr int exit_without_resources = 71;    // no thread, descriptor or memory; in a copy of a fork server, too
inline constexpr int exit_start_failed = 70;         // it has sent START_FAILED, if it could

/// Name of the environment variable that makes a process a worker.
inline constexpr const char* environment_name = "DROVER_WORKER";
/// Name of the variable with the number of the worker's slot, which stays in its environment.
inline constexpr const char* slot_variable = "DROVER_SLOT";

/// An inherited descriptor, and what fstat(2) must report for it: the number alone may refer to another file by now.
struct InheritedFd {
  int fd = -1;  // -1: there is none
  std::uint64_t device = 0;
  std::uint64_t inode = 0;

  bool operator==(const InheritedFd&) const = default;
};

/// The value of that variable.
struct WorkerEnvironment {
  InheritedFd control, data;
  InheritedFd parent;  // pidfd of the parent, if the kernel has pidfds
  InheritedFd lock;    // file on which the parent holds a record lock, where there are no pidfds
  InheritedFd forks;   // socket for ForkRequests; the process is a fork server
  std::int64_t spin_ns = 0;
  std::int64_t shutdown_grace_ns = 0;
  std::uint64_t max_message_size = 0;
  OnTerminate on_terminate = OnTerminate::cancel;
  std::int64_t stall_ns = 0;  // 0: nobody wants to know
  WorkerInfo worker;

  bool operator==(const WorkerEnvironment&) const = default;

  std::string to_string() const;

  /// Empty if the text is malformed. The version in it is ignored: a worker of another version must know that it is a
  /// worker, so that its HELLO can name its version.
  static std::optional<WorkerEnvironment> parse(std::string_view text);
};

inline std::string WorkerEnvironment::to_string() const {
  std::string text;
  append_number(text, protocol_version);
  for (const InheritedFd* fd : {&control, &data, &parent, &lock, &forks}) {
    append_number(text, fd->fd);
    append_number(text, fd->device);
    append_number(text, fd->inode);
  }
  append_number(text, spin_ns);
  append_number(text, shutdown_grace_ns);
  append_number(text, max_message_size);
  append_number(text, static_cast<unsigned>(on_terminate));
  append_number(text, stall_ns);
  append_info(text, worker);
  return text;
}

inline std::optional<WorkerEnvironment> WorkerEnvironment::parse(std::string_view text) {
  EnvironmentReader reader(text);
  std::uint32_t version = 0;
  reader.take(version);
  WorkerEnvironment environment;
  for (InheritedFd* fd :
       {&environment.control, &environment.data, &environment.parent, &environment.lock, &environment.forks}) {
    reader.take(fd->fd);
    reader.take(fd->device);
    reader.take(fd->inode);
  }
  reader.take(environment.spin_ns);
  reader.take(environment.shutdown_grace_ns);
  reader.take(environment.max_message_size);
  unsigned on_terminate = 0;
  reader.take(on_terminate);
  if (on_terminate > static_cast<unsigned>(OnTerminate::leave_to_parent)) return std::nullopt;
  environment.on_terminate = static_cast<OnTerminate>(on_terminate);
  reader.take(environment.stall_ns);
  environment.worker = take_info(reader);
  if (!reader.sound()) return std::nullopt;
  return environment;
}

}}}  // namespace drover::v1::detail
