# What the Cap'n Proto peer calls.
@0xb45a77aeaf36f7c1;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("peers::schema");

interface Echo {
  call @0 (data :Data) -> (data :Data);    # sends it back
  take @1 (data :Data) -> (size :UInt64);  # says how much has been received
}
