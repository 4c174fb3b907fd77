defmodule EmbeddedEpmd do
  @moduledoc """
  Runs the Erlang port mapper (EPMD) inside the VM.

  Add it to the supervision tree of a release whose `vm.args` names `EmbeddedEpmd.Discovery`:

      children = [EmbeddedEpmd]

  The server runs as long as the VM is a node. A release becomes a node while it boots, before any application runs, and
  the server starts with it. When the distribution or the VM stops, the server stops and hands over to a standby. This
  process supervises the server: it logs the server's events, sends them to subscribers, and restarts the server if its
  thread stops. If this process exits, or its application stops, the server and the node go on, and the next such
  process claims the server.

  A VM that is not a node has no server and needs none: the process waits until `Node.start/2` makes the VM a node. That
  also works without the flag `-epmd_module`, as under `iex -S mix`. On OTP 27.2 and later the process sets the
  parameter `epmd_module` of `kernel`. Earlier versions have no such parameter: there the process starts the server on
  the loopback addresses only, and adds the configured addresses as soon as the VM's own node registers. It does the
  same where another discovery module is configured. If something that is not an EPMD has the port, it logs a warning,
  and the application starts all the same. If `Node.start/2` comes before the child, call `prepare/1` before it.

  Several applications of one VM may each have `EmbeddedEpmd` as a child. The first process supervises the server; when
  it exits, one of the others takes its place. Their options must not contradict each other.

  ## Logs

  The server logs to Erlang's `logger` with reports, `%{what: sentence, ...}`. Their metadata has the domain
  `[:embedded_epmd]` and the fields of the report, such as `peer`, `name`, `port`, `reason`, `owner`, `addresses`.
  Faults have the level `:error`, refused registrations and nodes that come and go `:warning`, changes of role
  `:notice`, registrations and their ends `:info`, lookups `:debug`. `put_log_level/2` changes the level for a time.
  Entries below `:log_level` never enter the VM. Up to ten entries of each kind are logged per second; the field
  `left_out` counts the others. Reports that are logged before Elixir's Logger runs have no domain, since OTP's own
  handler would drop them.

  ## Telemetry

  If the library `:telemetry` is loaded when this process starts, these events are executed in every VM that has the
  table or a replica of it (`:table` of `t:EmbeddedEpmd.Status.t/0`). Each has the measurement `count`, which is 1
  except for lost events.

    * `[:embedded_epmd, :node, :registered]` - metadata `name`, `port`, `creation`, `user`
    * `[:embedded_epmd, :node, :unregistered]` - metadata `name`, `port`
    * `[:embedded_epmd, :node, :refused]` - metadata `name`, empty if the request was not valid, and `reason`, a
      sentence
    * `[:embedded_epmd, :role, :changed]` - metadata `role`, the new role of this VM
    * `[:embedded_epmd, :table, :lost]` - metadata `table`, which is `:owner`: this VM has lost its replica of the table
    * `[:embedded_epmd, :events, :lost]` - `count` events were lost because this process was too slow

  A handler runs in the supervised process: a slow one delays the log and the subscribers, never the server.
  """

  alias EmbeddedEpmd.Boot.Config.Schema
  alias EmbeddedEpmd.Boot.{Config, Lifecycle}
  alias EmbeddedEpmd.Doctor.Connection
  alias EmbeddedEpmd.{Departed, Doctor, Server, Stats, Status}

  @typedoc """
  An option of the child, or, under the same name, a key of the application environment:

      config :embedded_epmd, port: 4369

  If several sources give a setting, the first of these counts: the environment variables of OTP's daemon, the options
  of the child, the application environment, the default. The server of a release starts before it can read all of them,
  so the source of a setting decides when it takes effect:

  | set in | port, advertised_port, ports, local | addresses | the others |
  |---|---|---|---|
  | `ERL_EPMD_PORT`, `ERL_EPMD_ADDRESS`, `ERL_EPMD_RELAXED_COMMAND_CHECK` | port: from the start | from the start | `:relaxed`: from the start |
  | `vm.args`: `-embedded_epmd port 4370` | from the start | from the start | from the start |
  | `config.exs`, a `-config` file | from the start | from the start | from the start |
  | `runtime.exs`, a config provider, with a reboot | from the start | from the start | from the start |
  | `runtime.exs`, a config provider, without one | another one is refused | from the start of the child | from the start of the child |
  | the child: `{EmbeddedEpmd, port: 4370}` | another one is refused | from the start of the child | from the start of the child |

  If a setting is refused, the child does not start, and the error names the setting, both ports, and where to set it.
  In a VM that becomes a node after its child has started, all settings apply from the start. `bin/app rpc`, `remote`,
  `stop` and `pid` read neither configuration nor options: they take a port other than 4369 from `ERL_EPMD_PORT` only.

  In `vm.args` the values are Erlang terms, quoted as in a shell: `-embedded_epmd addresses '["127.0.0.1"]'`.

  Every source is read in the same way. Numbers may be text (`"4370"`), and `true` and `false` may be written as `yes`,
  `no`, `on`, `off`, `1` or `0`, in capitals or not. A blank value is not set: `nil`, `""`, a list (except that of
  `:allow`) or a map without entries, or a variable with blanks only; then the next source counts. An option of the
  child that does not exist is refused; a key of the application environment or a variable `ERL_EPMD_...` that does not
  exist is ignored, with a warning that names the nearest one.

  #{Schema.documentation()}
  """
  @type option ::
          {:port, 1..65_535}
          | {:addresses, [String.t() | :inet.ip_address()] | String.t()}
          | {:local, boolean() | nil}
          | {:relaxed, boolean()}
          | {:remote_names, boolean()}
          | {:allow, [String.t()] | nil}
          | {:health, boolean()}
          | {:reserved_names, [{String.t(), String.t() | non_neg_integer() | [String.t() | non_neg_integer()]}]}
          | {:request_deadline, 100..600_000}
          | {:max_waiting, 1..65_535}
          | {:max_waiting_per_source, 1..65_535}
          | {:descriptor_share, 1..95}
          | {:hand_over, boolean() | [{:users | :groups, [String.t() | non_neg_integer()]}]}
          | {:standbys, 1..8}
          | {:endpoints, EmbeddedEpmd.Endpoints.setting()}
          | {:advertised_port, :inet.port_number()}
          | {:ports, Range.t() | {first :: :inet.port_number(), last :: :inet.port_number()} | String.t()}
          | {:log_level, :none | :error | :warning | :notice | :info | :debug}

  @typedoc """
  What the doctor found: what it checked or what is wrong, and unless that is `:ok`, why it matters and what to do.
  """
  @type finding :: %{
          required(:status) => :ok | :warning | :problem,
          required(:what) => String.t(),
          required(:why) => String.t() | nil,
          required(:fix) => String.t() | nil,
          # Of `doctor/1` only: the step, and the microseconds that it took.
          optional(:step) => :name | :here | :address | :epmd | :port | :handshake | :identity,
          optional(:took) => non_neg_integer()
        }

  @typedoc """
  The number of the user that registered a node, as the kernel reported it to the owner of the port. `nil` where the
  kernel cannot report it: on systems other than Linux, for a process in another network or user namespace, and if this
  VM asks its owner because it has no replica.
  """
  @type user :: non_neg_integer() | nil

  @typedoc """
  A name that left: its last port, when it was registered and when it left. `times` is how often in a row its
  registration ended within 10 seconds, each time less than a minute after the last, and `since` is when the first of
  these began; they are 0 and `nil` if the last registration lasted longer. An owner that had no replica of the table
  counts anew.
  """
  @type departed :: %{
          name: String.t(),
          port: :inet.port_number(),
          registered: DateTime.t(),
          left: DateTime.t(),
          times: non_neg_integer(),
          since: DateTime.t() | nil
        }

  @typedoc """
  A change, as a subscriber gets it: the message `{:embedded_epmd, event}`.

    * `{:registered, node}` and `{:unregistered, node}` - a node of this host registered, or its registration ended;
      sent in every VM that has the table or a replica of it. A change of owner sends no such events by itself. After
      one, only the nodes that have really come or gone meanwhile are sent; a node whose port or creation has changed
      is sent as unregistered, then as registered.
    * `{:refused, refusal}` - a registration was refused; sent in the same VMs. The name is empty if the request was
      not valid.
    * `{:table, :owner}` - this VM has lost its replica of the table: forget all nodes. If it gets a replica again, all
      nodes in it are sent as registered.
    * `{:role, role}` - this VM's server took another role. `:stopped` means that the server has stopped: forget all
      nodes. If a server starts again, its role and all its nodes are sent.
    * `{:overflow, count}` - `count` events were left out, because 1000 messages waited in the subscriber's mailbox or
      the supervised process was too slow: subscribe again for a new snapshot.
  """
  @type event ::
          {:registered, %{name: String.t(), port: :inet.port_number(), creation: pos_integer(), user: user()}}
          | {:unregistered, %{name: String.t(), port: :inet.port_number()}}
          | {:refused, %{name: String.t(), reason: String.t()}}
          | {:role, :serving | :joined | :searching | :stopped}
          | {:table, :owner}
          | {:overflow, pos_integer()}

  @typedoc """
  The state that a subscriber's events change. Without the table or a replica of it, the VM has no nodes, and the list
  is empty; once it has a replica, each node in it is sent as registered.
  """
  @type snapshot :: %{
          role: :serving | :joined | :searching | :stopped,
          nodes: [%{name: String.t(), port: :inet.port_number(), creation: pos_integer(), user: user()}]
        }

  @doc "The child specification. The process is permanent, and has 5 seconds to hand over when the VM stops."
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}, shutdown: 5_000}
  end

  @doc """
  Starts the process that supervises this VM's server. If the VM is not a node yet, the process waits until it is; if
  another such process already runs, it waits until that one exits.

  Raises an `ArgumentError` for a bad option; the message names the option, what is expected and what came. Returns
  `{:error, sentence}` if a setting contradicts the running server or the options of another child.
  """
  @spec start_link([option()]) :: GenServer.on_start()
  defdelegate start_link(options), to: EmbeddedEpmd.Server

  @doc """
  Prepares this VM to become a node before the child has started. Takes the options of the child.

  Only for a VM without the flag `-epmd_module` that calls `Node.start/2` before its supervisor starts `EmbeddedEpmd`,
  as in the `start/2` of its application. Without this call, `Node.start/2` looks for OTP's daemon there, and fails with
  `:econnrefused` if none runs.

      def start(_type, _arguments) do
        :ok = EmbeddedEpmd.prepare()
        {:ok, _} = Node.start(:app, :shortnames)
        Supervisor.start_link([EmbeddedEpmd], strategy: :one_for_one)
      end

  It does what the child does for a VM that is not a node yet. Raises an `ArgumentError` for a bad option. Returns
  `{:error, sentence}` if the server cannot run: then `Node.start/2` finds OTP's daemon, if one runs.
  """
  @spec prepare([option()]) :: :ok | {:error, String.t()}
  def prepare(options \\ []), do: Server.prepare(options)

  @doc """
  Lists the nodes of this host with their distribution ports and users, the newest registration first.

      EmbeddedEpmd.names()
      #=> {:ok, [%{name: "stage", port: 41234, user: 1002}, %{name: "prod", port: 37111, user: 1001}]}

  Without the table or a replica of it, asks the owner, for up to 5 seconds. Errors are `:stopped` without a server,
  `:searching` without an owner, `:address` if the port's owner does not answer as an EPMD, `:too_long` if its answer is
  longer than 16 MiB, and those of `:gen_tcp`.
  """
  @spec names() :: {:ok, [%{name: String.t(), port: :inet.port_number(), user: user()}]} | {:error, atom()}
  def names do
    with {:ok, server} <- running(),
         {:ok, names} <- Status.names(server) do
      {:ok, Enum.map(names, fn {name, port, user} -> %{name: name, port: port, user: user} end)}
    end
  end

  @doc """
  Lists the names that left the table and did not come back, the last to leave first. The table remembers at least the
  last 1,000.

      {:ok, [%{name: "app", times: 3} | _]} = EmbeddedEpmd.departed()

  Errors are `:stopped` without a server, and `:no_table` without the table or a replica of it.
  """
  @spec departed() :: {:ok, [departed()]} | {:error, :stopped | :no_table}
  def departed do
    with {:ok, server} <- running(), do: Departed.read(server)
  end

  @doc """
  Returns the state of this VM's server.

      EmbeddedEpmd.status().role
      #=> :serving

  Without the table or a replica of it, asks the owner for the number of names, for up to 5 seconds.
  """
  @spec status() :: Status.t()
  defdelegate status, to: Status, as: :read

  @doc """
  Sends a local process the events of this VM's server from now on, and returns the state that they change.

      {:ok, %{role: :serving, nodes: nodes}} = EmbeddedEpmd.subscribe()

      receive do
        {:embedded_epmd, {:registered, node}} -> node.name
      end

  No event is lost between the snapshot and the first message. A process that subscribes again gets a new snapshot, and
  each event only once. The subscription ends when the subscriber or the supervised process exits: call
  `Process.monitor(EmbeddedEpmd.Server)` to notice the latter, and subscribe again. Returns `{:error, :stopped}` when
  the supervised process does not run.
  """
  @spec subscribe(pid()) :: {:ok, snapshot()} | {:error, :stopped}
  def subscribe(pid \\ self()) when node(pid) == node() do
    {:ok, Server.subscribe(pid)}
  catch
    :exit, _ -> {:error, :stopped}
  end

  @doc "Ends a subscription."
  @spec unsubscribe(pid()) :: :ok
  def unsubscribe(pid \\ self()) do
    Server.unsubscribe(pid)
  catch
    :exit, _ -> :ok
  end

  @doc """
  Changes the level from which this VM's server logs, for a time; after it `:log_level` applies again.

      bin/app rpc "EmbeddedEpmd.put_log_level(:debug, for: 60_000)"

  `:info` adds each registration and its end, `:debug` which peer asks for which name and what the answer is. The log of
  this VM gets the entries even if the level of Erlang's logger is higher. They are about requests that this VM answers,
  so call it in the VM that serves (`status/0`). A VM's own lookups in its memory are not logged. `:for` is in
  milliseconds, from 1 to 86400000; it defaults to 60000. Another call replaces this one.

  Raises an `ArgumentError` for an unknown level. Returns `{:error, :stopped}` without a server or without the
  supervised process.
  """
  @spec put_log_level(level, for: 1..86_400_000) :: :ok | {:error, :stopped}
        when level: :none | :error | :warning | :notice | :info | :debug
  def put_log_level(level, options \\ []) do
    Server.put_log_level(Config.log_level!(level), Config.log_time!(options))
  catch
    :exit, _ -> {:error, :stopped}
  end

  @doc """
  Sets whether this VM is ready for work. If `:health` is on, `GET /ready` answers accordingly: 200 after `ready(true)`,
  503 before it and after `ready(false)`.

      def start(_type, _arguments) do
        result = Supervisor.start_link([EmbeddedEpmd, App.Repo, App.Endpoint], strategy: :one_for_one)
        EmbeddedEpmd.ready(true)
        result
      end

  A VM is not ready when it boots. You may call this before the server runs; it applies until the VM stops or the next
  call. With `EmbeddedEpmd.Cluster`, `/ready` answers 200 only while the matching nodes are connected as well. Returns
  `:ok`, whether `:health` is on or not; raises an `ArgumentError` for anything but `true` and `false`.
  """
  @spec ready(boolean()) :: :ok
  def ready(ready?) when is_boolean(ready?), do: Lifecycle.put_ready(ready?)

  def ready(other),
    do: raise(ArgumentError, "embedded_epmd: whether the VM is ready must be true or false, got: #{inspect(other)}")

  @doc """
  Returns what this VM's server has done since it started. Reading it does not block the server.

      {:ok, stats} = EmbeddedEpmd.stats()
      stats.requests.port_please
      #=> %{found: 1042, not_found: 3}
  """
  @spec stats() :: {:ok, Stats.t()} | {:error, :stopped}
  def stats do
    with {:ok, server} <- running(), do: {:ok, Stats.read(server)}
  end

  @doc """
  Examines this VM and its host, prints what it finds in plain sentences, and returns `:ok`, or `:error` when there is
  a problem.

      bin/app rpc "EmbeddedEpmd.doctor()"

  For scripts, which need a status:

      bin/app rpc 'EmbeddedEpmd.doctor() == :ok || exit(:problem)'

  If `rpc` cannot reach the node, examine the host and the running release from outside:

      bin/app eval "EmbeddedEpmd.doctor()"

  It finds the owner of the port on Linux only. `examine/0` returns the findings instead.
  """
  @spec doctor() :: :ok | :error
  def doctor do
    tell(examine(), &Doctor.format/1)
  end

  @doc "Returns the findings of `doctor/0`."
  @spec examine() :: [finding()]
  defdelegate examine, to: Doctor

  @doc """
  Finds out why this node and another do not connect. Prints what each step of a connection found and how long it took,
  and for the first step that fails what the failure means and what to do. Returns `:ok`, or `:error` when there is a
  problem.

      bin/app rpc 'EmbeddedEpmd.doctor(:"other@host")'

  `mix help embedded_epmd.doctor` describes the steps. The other node sees a hidden node for some milliseconds. This
  node itself is neither connected nor disconnected.
  """
  @spec doctor(node() | String.t()) :: :ok | :error
  def doctor(node) do
    tell(examine(node), &Connection.format/1)
  end

  @doc "Returns the findings of `doctor/1`."
  @spec examine(node() | String.t()) :: [finding()]
  defdelegate examine(node), to: Connection

  defp tell(findings, format) do
    IO.write(format.(findings))
    if Enum.any?(findings, &(&1.status == :problem)), do: :error, else: :ok
  end

  defp running do
    with :none <- Lifecycle.server(), do: {:error, :stopped}
  end
end
