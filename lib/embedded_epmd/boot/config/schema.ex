defmodule EmbeddedEpmd.Boot.Config.Schema do
  @moduledoc false
  # Every setting, once: how its values are read, what they must be, its default, the environment variable that comes
  # first, and its documentation.

  # `kind` is what `Value` reads, `expected` ends the sentence "... must be ...", `means` says what a default is that does
  # not speak for itself. Defaults are as they are after reading.
  @settings [
    port: %{
      kind: {:number, 1, 65_535},
      expected: "a port from 1 to 65535",
      default: 4369,
      variable: "ERL_EPMD_PORT",
      doc: "the port to serve. The flag `-epmd_port` of `erl` is the same as the variable."
    },
    addresses: %{
      kind: :addresses,
      expected: "IPv4 and IPv6 addresses",
      default: [],
      means: "all addresses",
      variable: "ERL_EPMD_ADDRESS",
      doc: """
      where to listen: a list of addresses, as strings or tuples, or one string separated by commas. If the list has an
      address that is neither a loopback nor the any address, 127.0.0.1 and ::1 are added, since nodes register there. A
      list of loopbacks gets the loopback where this VM's nodes register (127.0.0.1, or ::1 with IPv6 distribution),
      unless it is taken. A loopback that this host does not have is left out, with a warning, until it comes; any other
      address must exist.
      """
    },
    local: %{
      kind: :boolean,
      expected: "true or false",
      default: nil,
      means: "what the node's name says",
      doc: """
      who reaches this VM. With `true` only this host does: the node's distribution as well as the EPMD. A node whose
      host is a loopback address or `localhost` is closed by its name, but its EPMD is not. With `false` the node
      listens where OTP would. `inet_dist_use_interface` of `kernel` counts first. See the
      [security guide](security.md).
      """
    },
    relaxed: %{
      kind: :boolean,
      expected: "true or false",
      default: false,
      variable: "ERL_EPMD_RELAXED_COMMAND_CHECK",
      doc: "lets local peers end the registrations of others, as `epmd -stop` and `-kill` do."
    },
    remote_names: %{
      kind: :boolean,
      expected: "true or false",
      default: false,
      doc: "lets remote peers list the names."
    },
    allow: %{
      kind: :networks,
      expected: "networks such as \"10.0.0.0/8\"",
      default: nil,
      means: "everybody",
      doc: """
      the networks that may look nodes up, as a list or as one string separated by commas; local peers always may, and
      with `[]` nobody else.
      """
    },
    health: %{
      kind: :boolean,
      expected: "true or false",
      default: false,
      doc: """
      answers health checks over HTTP on the same port, to local peers and to those that `:allow` lets look nodes up:
      `GET /live` and `/ready` about this VM, `/live/NAME` and `/ready/NAME` about the VM of another node of this host
      that follows this one (on Linux), and `/metrics` for Prometheus. The setting of the VM that serves applies. See
      the [guide to containers](containers.md#probes) and `EmbeddedEpmd.ready/1`.
      """
    },
    reserved_names: %{
      kind: :reserved_names,
      expected:
        "a list of nodes' names or patterns with users, by their names or numbers, " <>
          "such as [{\"prod\", \"prod\"}, {\"billing_*\", [\"billing\", 1001]}]",
      default: [],
      means: "every name is anybody's",
      doc: """
      names that only certain users may register, with `*` for any characters. The first that matches counts. A
      registration is refused if the kernel cannot report its user. A user that does not exist now, as that of a stopped
      unit with `DynamicUser=`, is looked up every 5 seconds; until then the name is refused to everybody else. The list
      of the VM that serves applies. See the [security guide](security.md).
      """
    },
    request_deadline: %{
      kind: {:number, 100, 600_000},
      expected: "milliseconds from 100 to 600000",
      default: 10_000,
      doc: """
      the time from the start of a connection to the end of its reply. Linux holds back a connection without data for
      about a second before the deadline starts.
      """
    },
    max_waiting: %{
      kind: {:number, 1, 65_535},
      expected: "a number from 1 to 65535",
      default: 256,
      doc: """
      how many connections may wait for their request or reply. At the limit the server closes the oldest one of the
      remote source with the most; only if all are local, the oldest one of the user with the most.
      """
    },
    max_waiting_per_source: %{
      kind: {:number, 1, 65_535},
      expected: "a number from 1 to 65535",
      default: 32,
      doc: "how many of these may come from one remote IPv4 address or one IPv6 network (/64)."
    },
    descriptor_share: %{
      kind: {:number, 1, 95},
      expected: "a percentage from 1 to 95",
      default: 40,
      doc: """
      how much of the VM's limit of open files registered nodes and waiting connections may use together. The rest is
      left to the application.
      """
    },
    hand_over: %{
      kind: :hand_over,
      expected: "true, false, or lists of names or numbers such as [users: [\"prod\"], groups: [\"epmd\"]]",
      default: true,
      doc: """
      lets other VMs stand by for this one, and this one for another. A standby has copies of the listeners and of the
      registered nodes' connections, and takes over with these when the owner of the port stops, even if it is killed.
      Owner and standby need the same `:addresses`. `true` means VMs of this user. The lists add VMs of other users,
      whose setting must in turn name this VM's user or group. A user or group that does not exist now is looked up
      every 5 seconds.
      """
    },
    standbys: %{
      kind: {:number, 1, 8},
      expected: "a number from 1 to 8",
      default: 2,
      doc: "how many VMs may stand by."
    },
    endpoints: %{
      kind: :endpoints,
      expected: "a list of nodes with endpoints, or {module, function}",
      default: [],
      means: "none",
      doc: "where to reach nodes that no EPMD can look up: see `EmbeddedEpmd.Endpoints`."
    },
    advertised_port: %{
      kind: {:number, 1, 65_535},
      expected: "a port from 1 to 65535",
      default: nil,
      means: "the port that the node listens on",
      doc: """
      registers this port instead of the one that the node listens on, for instance that of a port forwarder. It must
      also lead to the node from this host, since `bin/app rpc`, `remote`, `stop`, `pid` and the other nodes of this
      host look it up: preferably let the node listen on the same port (`inet_dist_listen_min`). Once the node is
      registered, another value is refused.
      """
    },
    ports: %{
      kind: {:range, 1, 65_535, 1_000},
      expected: "a range of at most 1000 ports, such as 9100..9199",
      default: nil,
      means: "any port",
      doc: """
      where this VM's node listens: one of these ports, the same at each start. No two nodes of a host get the same
      port, whatever their users and releases are, as long as they share an EPMD of this library; with OTP's daemon, two
      nodes that start at the same moment may get the same one. A port that another process has is left out, with a
      warning. The plan is lost when every VM that has it has stopped; then names may get other ports of the range.
      Beside `inet_dist_listen_min` or `inet_dist_listen_max` it is refused; with a fixed port (`-erl_epmd_port`) it is
      ignored, with a warning. `mix embedded_epmd.ports` prints the plan, and rules for firewalls.
      """
    },
    log_level: %{
      kind: {:one_of, [:none, :error, :warning, :notice, :info, :debug]},
      expected: "one of [none,error,warning,notice,info,debug]",
      default: :notice,
      doc: "the lowest level that the server logs."
    }
  ]

  @names for {name, _} <- @settings, do: name
  @by_name Map.new(@settings, fn {name, setting} -> {name, Map.delete(setting, :doc)} end)

  @type setting :: %{
          required(:kind) => EmbeddedEpmd.Boot.Config.Value.kind(),
          required(:expected) => String.t(),
          required(:default) => term(),
          optional(:means) => String.t(),
          optional(:variable) => String.t()
        }

  @doc "The names of all settings."
  @spec names() :: [atom()]
  def names, do: @names

  @spec setting(atom()) :: setting()
  def setting(name), do: :maps.get(name, @by_name)

  @documentation Enum.map_join(@settings, "\n", fn {name, setting} ->
                   variable = if setting[:variable], do: "`#{setting.variable}`. ", else: ""
                   default = setting[:means] || "`#{inspect(setting.default)}`"
                   doc = setting.doc |> String.trim() |> String.replace("\n", "\n    ")
                   "  * `:#{name}` - #{doc} Must be #{setting.expected}. #{variable}Defaults to #{default}."
                 end)

  @doc "The settings as a list in Markdown."
  @spec documentation() :: String.t()
  def documentation, do: @documentation
end
