defmodule EmbeddedEpmd do
  @moduledoc """
  The Erlang port mapper (EPMD) inside the VM.

  Add it to the supervision tree of a release whose `vm.args` names `EmbeddedEpmd.Discovery`:

      children = [EmbeddedEpmd]

  The server lives as long as the VM is a node. It starts when the VM becomes one, which in a release is while it boots,
  since the node registers before any application runs; it ends with the distribution, or with the VM, and hands over
  then. This process looks after it: it logs its events, tells subscribers, and starts it again should its thread ever
  end. If the process itself ends, or its application does, the node stays as it is, and the next such process goes on.

  A VM that is no node has no server and needs none: the process waits until `Node.start/2` makes it one. Under
  `iex -S mix`, without the flag `-epmd_module`, that works as well. On OTP 27.2 and later the process sets the parameter
  `epmd_module` of `kernel` then. Earlier versions have nothing of the kind: there the process starts the server on
  loopback alone, and on the configured addresses as soon as a node is registered with it. If something that is no EPMD
  has the port, a warning says so, and the application starts all the same.

  Several applications of one VM may each have it as a child: one process looks after the server, the others wait for
  its end. Their options must not contradict each other.

  ## Logs

  What the server has to say goes to Erlang's `logger` as reports, `%{what: sentence, ...}`, with the domain
  `[:embedded_epmd]` and the report's fields as metadata: `peer`, `name`, `port`, `reason`, `owner`, `addresses`. Trouble
  is `:error`, a refused registration `:warning`, a change of role `:notice`, a registration `:info`, a look-up `:debug`.
  Only what `:log_level` asks for enters the VM. Of each kind of entry ten pass in a second; `left_out` says how many
  more there were.

  ## Telemetry

  Where the library `:telemetry` is loaded when this process starts, these events are executed in every VM that knows the
  table (`:table` of `t:status/0`). Each has the measurement `count`, 1 but for the last.

    * `[:embedded_epmd, :registered]` - metadata `name`, `port`, `creation`
    * `[:embedded_epmd, :unregistered]` - metadata `name`, `port`
    * `[:embedded_epmd, :refused]` - metadata `name`, empty where the request was not valid, and `reason`, a sentence
    * `[:embedded_epmd, :role]` - metadata `role`; of this VM
    * `[:embedded_epmd, :table]` - metadata `table`, which is `:owner`: this VM has lost its copy of the table
    * `[:embedded_epmd, :overflow]` - `count` events were lost, since this process was too slow

  A handler runs in the supervised process: a slow one delays the log and the subscribers, never the server.
  """

  alias EmbeddedEpmd.{Client, Doctor, Lifecycle, Native, Server, Stats}
  alias EmbeddedEpmd.Doctor.Connection

  @timeout 5_000
  @typedoc """
  An option of the child, or, under the same name, a key of the application environment:

      config :embedded_epmd, port: 4369

  Of several sources the first one counts: the environment variables of OTP's daemon, the options of the child, the
  application environment, the default. The server of a release starts before all of them can be read, so from where a
  setting comes decides from when on it holds:

  | set in | port | addresses | the others |
  |---|---|---|---|
  | `ERL_EPMD_PORT`, `ERL_EPMD_ADDRESS`, `ERL_EPMD_RELAXED_COMMAND_CHECK` | from the start | from the start | `:relaxed`: from the start |
  | `vm.args`: `-embedded_epmd port 4370` | from the start | from the start | from the start |
  | `config.exs`, a `-config` file | from the start | from the start | from the start |
  | `runtime.exs`, a config provider, with a reboot | from the start | from the start | from the start |
  | `runtime.exs`, a config provider, without one | another one is refused | from the start of the child | from the start of the child |
  | the child: `{EmbeddedEpmd, port: 4370}` | another one is refused | from the start of the child | from the start of the child |

  Refused means: the child does not start, and the error names the setting, both ports, and where it belongs. A VM that
  becomes a node after its child has started has all of them from the start. `bin/app rpc` and its like read neither
  configuration nor options: they know another port than 4369 from `ERL_EPMD_PORT` only.

  In `vm.args` the values are Erlang terms, in quotes as a shell has them: `-embedded_epmd addresses '["127.0.0.1"]'`.

    * `:port` - the port to serve, 1 to 65535. `ERL_EPMD_PORT`, or `-epmd_port` of `erl`. Defaults to 4369.
    * `:addresses` - where to listen: a list of IPv4 and IPv6 addresses, as strings or tuples, or one string separated
      by commas. `ERL_EPMD_ADDRESS`. Beside an address that is neither loopback nor any, 127.0.0.1 and ::1 are added,
      since nodes register there. Defaults to `[]`, which is everywhere.
    * `:relaxed` - lets local peers end the registrations of others, as `epmd -stop` and `-kill` do.
      `ERL_EPMD_RELAXED_COMMAND_CHECK`, where empty, `0` and `false` mean no. Defaults to `false`.
    * `:remote_names` - lets remote peers list the names. Defaults to `false`.
    * `:allow` - the networks that may look nodes up, such as `["10.0.0.0/8"]`; local peers always may. Defaults to
      `nil`, which is everybody.
    * `:request_deadline` - milliseconds from a connection to the end of its reply. Defaults to 10000. Linux keeps a
      connection that says nothing to itself for a second; its time starts then.
    * `:max_waiting` - connections that may wait for their request or reply. At the limit the one that has waited
      longest gives way. Defaults to 256.
    * `:max_waiting_per_source` - of these, connections from one remote address. Defaults to 32.
    * `:descriptor_share` - how much of the VM's limit of open files registered nodes and waiting connections may take
      together, in percent, 1 to 95: the rest is the application's. Defaults to 40.
    * `:hand_over` - lets other VMs stand by for this one, and this one for another: they have copies of the listeners
      and of the registered nodes' connections, and one of them goes on with these when the owner of the port ends,
      however it ends. All that are to do so need the same `:addresses`. `true` means VMs of this user;
      `[users: ["prod"], groups: ["epmd"]]`, with names or numbers, those of others as well, which need to name this
      one's. Defaults to `true`.
    * `:standbys` - how many VMs may stand by, 1 to 8. Defaults to 2.
    * `:endpoints` - where nodes are reached of which no EPMD can tell: see `EmbeddedEpmd.Endpoints`. Defaults to `%{}`.
    * `:advertise` - `[port: 30100]` is what others are told of this node instead of the port that it listens on: that of a
      forwarder before it. Nodes of this host are told the same, and so are `bin/app rpc`, `remote`, `stop` and `pid`: it
      must lead to the node from here as well, so where both ports can be one (`inet_dist_listen_min`), let them be one.
      It holds from the node's registration on; where that is over, as for `:port`, another one is refused. Defaults to
      `[]`.
    * `:log_level` - from what level on the server logs: `:none`, `:error`, `:warning`, `:notice`, `:info` or `:debug`.
      Defaults to `:notice`.
  """
  @type option ::
          {:port, 1..65_535}
          | {:addresses, [String.t() | :inet.ip_address()] | String.t()}
          | {:relaxed, boolean()}
          | {:remote_names, boolean()}
          | {:allow, [String.t()] | nil}
          | {:request_deadline, 100..600_000}
          | {:max_waiting, 1..65_535}
          | {:max_waiting_per_source, 1..65_535}
          | {:descriptor_share, 1..95}
          | {:hand_over, boolean() | [{:users | :groups, [String.t() | non_neg_integer()]}]}
          | {:standbys, 1..8}
          | {:endpoints, EmbeddedEpmd.Endpoints.setting()}
          | {:advertise, [port: :inet.port_number()]}
          | {:log_level, :none | :error | :warning | :notice | :info | :debug}

  @typedoc """
  The state of this VM's server.

    * `:role` - `:serving` when it owns the port, `:joined` when it is registered with another owner, `:searching`
      while it looks for either, `:stopped` when there is no server, as in a VM that is no node
    * `:since` - when it took that role
    * `:changes` - how often the role changed
    * `:port` - the port
    * `:addresses` - the addresses it listens on when it serves
    * `:owner` - the address of the owner it joined, or `nil`
    * `:owner_answers` - false while that owner holds the port and answers nobody
    * `:standbys` - in the VM that serves, who stands by for it: the name of its node, or `nil` if it has none, and its
      process id, or `nil` where the system does not say
    * `:standby` - the first of them, or `nil` when nobody does
    * `:stands_by` - whether this VM stands by for the owner that it joined
    * `:table` - where look-ups, `names/0` and events of this VM come from: `:here` when it serves the table; `:copy`
      when it has a copy, which its owner keeps up to date over the channel of the hand-over and which is kept for 5
      seconds while the port changes hands; `:owner` when it has none, and asks its owner each time. That is so beside
      OTP's daemon, without `:hand_over`, and where the owner is another user's that `:hand_over` does not name. `nil`
      without a server
    * `:socket_unit` - whether the listeners are those of a socket unit of systemd's
    * `:kept` - whether systemd keeps the registered connections for the next life of this service, in its descriptor
      store: `:all`, `:some` when that has no more room, or `:nothing`
    * `:names` - how many names are registered, or `nil` when the owner does not say
  """
  @type status :: %{
          role: :serving | :joined | :searching | :stopped,
          since: DateTime.t() | nil,
          changes: non_neg_integer(),
          port: :inet.port_number() | nil,
          addresses: [String.t()],
          owner: String.t() | nil,
          owner_answers: boolean(),
          standbys: [%{name: String.t() | nil, pid: pos_integer() | nil}],
          standby: %{name: String.t() | nil, pid: pos_integer() | nil} | nil,
          stands_by: boolean(),
          table: :here | :copy | :owner | nil,
          socket_unit: boolean(),
          kept: :all | :some | :nothing,
          names: non_neg_integer() | nil
        }

  @typedoc """
  What the doctor found: that something is as it should be, or what is not, why that matters, and what to do.
  """
  @type finding :: %{
          required(:status) => :ok | :warning | :problem,
          required(:what) => String.t(),
          required(:why) => String.t() | nil,
          required(:do) => String.t() | nil,
          # Of the way to another node: the step, and the microseconds that it took.
          optional(:step) => :name | :here | :address | :epmd | :port | :handshake | :identity,
          optional(:took) => non_neg_integer()
        }

  @typedoc """
  A change, as a subscriber gets it: the message `{:embedded_epmd, event}`.

    * `{:registered, node}` and `{:unregistered, node}` - of every node of the host, in every VM that knows the table. A
      change of owner is none of theirs: afterwards come those that have really come or gone meanwhile, and both, the end
      first, of one that has another port or creation
    * `{:refused, refusal}` - a registration was refused, likewise; the name is empty where the request was not valid
    * `{:table, :owner}` - this VM has lost its copy of the table, and the nodes that were told of with it: should it have
      one again, they are told from the beginning
    * `{:role, role}` - this VM's server took another role; with `:stopped` it has ended, and the nodes that were told of
      with it. Should there be a server again, its role and its nodes are told from the beginning.
    * `{:overflow, count}` - so many events were left out, since 1000 messages waited in the subscriber's mailbox or the
      supervised process was too slow: subscribe again for a new snapshot
  """
  @type event ::
          {:registered, %{name: String.t(), port: :inet.port_number(), creation: pos_integer()}}
          | {:unregistered, %{name: String.t(), port: :inet.port_number()}}
          | {:refused, %{name: String.t(), reason: String.t()}}
          | {:role, :serving | :joined | :searching | :stopped}
          | {:table, :owner}
          | {:overflow, pos_integer()}

  @typedoc """
  The state to which a subscriber's events are to be added. The nodes are those of the table or of the copy that this
  VM has: with neither there are none, until there is a copy and each is told as registered.
  """
  @type snapshot :: %{
          role: :serving | :joined | :searching | :stopped,
          nodes: [%{name: String.t(), port: :inet.port_number(), creation: pos_integer()}]
        }

  @doc """
  The child specification: permanent, and with 5 seconds to hand over when the VM stops.
  """
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}, shutdown: 5_000}
  end

  @doc """
  Starts the process that looks after this VM's server, or waits for one, or for the end of another such process.

  Raises an `ArgumentError` for a bad option, which names the option, what is expected and what came. The error is a
  sentence where a setting contradicts the server that runs, or the options of another child.
  """
  @spec start_link([option()]) :: GenServer.on_start()
  defdelegate start_link(options), to: EmbeddedEpmd.Server

  @doc """
  Lists the nodes of this host with their distribution ports, the newest registration first, wherever they are kept.

      EmbeddedEpmd.names()
      #=> {:ok, [%{name: "stage", port: 41234}, %{name: "prod", port: 37111}]}

  Returns `{:error, :stopped}` when this VM has no server, and the error of the look-up when its owner cannot be asked.
  """
  @spec names() :: {:ok, [%{name: String.t(), port: :inet.port_number()}]} | {:error, atom()}
  def names do
    with {:ok, server} <- running(),
         {:ok, names} <- names_of(server) do
      {:ok, Enum.map(names, fn {name, port} -> %{name: name, port: port} end)}
    end
  end

  @doc """
  The state of this VM's server.

      EmbeddedEpmd.status().role
      #=> :serving

  A server that has joined asks its owner for the number of names, for at most 5 seconds.
  """
  @spec status() :: status()
  def status do
    case running() do
      {:ok, server} ->
        status = Native.status(server)

        Map.merge(status, %{
          since: DateTime.from_unix!(status.since, :millisecond),
          standby: List.first(status.standbys),
          names: count(server, status)
        })

      {:error, :stopped} ->
        %{
          role: :stopped,
          since: nil,
          changes: 0,
          port: nil,
          addresses: [],
          owner: nil,
          owner_answers: true,
          standbys: [],
          standby: nil,
          stands_by: false,
          table: nil,
          socket_unit: false,
          kept: :nothing,
          names: nil
        }
    end
  end

  @doc """
  Sends a local process the events of this VM's server from now on, and returns the state to add them to.

      {:ok, %{role: :serving, nodes: nodes}} = EmbeddedEpmd.subscribe()

      receive do
        {:embedded_epmd, {:registered, node}} -> node.name
      end

  Nothing happens unseen between the snapshot and the first event. A process that subscribes again gets a new snapshot
  and each event once; one that ends is forgotten. The subscription ends with the supervised process: monitor
  `EmbeddedEpmd.Server` to notice, and subscribe again. Returns `{:error, :stopped}` when that does not run.
  """
  @spec subscribe(pid()) :: {:ok, snapshot()} | {:error, :stopped}
  def subscribe(pid \\ self()) when node(pid) == node() do
    {:ok, Server.subscribe(pid)}
  catch
    :exit, _ -> {:error, :stopped}
  end

  @doc """
  Ends a subscription.
  """
  @spec unsubscribe(pid()) :: :ok
  def unsubscribe(pid \\ self()) do
    Server.unsubscribe(pid)
  catch
    :exit, _ -> :ok
  end

  @doc """
  What this VM's server has done since it started; reading it takes no lock from it.

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

  For scripts, which want a status:

      bin/app rpc 'EmbeddedEpmd.doctor() == :ok || exit(:problem)'

  Where `rpc` does not get through, a VM that is no node examines the host and looks for the running release:

      bin/app eval "EmbeddedEpmd.doctor()"

  Who owns the port is known on Linux only. `examine/0` returns the findings instead.
  """
  @spec doctor() :: :ok | :error
  def doctor do
    findings = examine()
    IO.write(Doctor.format(findings))
    if Enum.any?(findings, &(&1.status == :problem)), do: :error, else: :ok
  end

  @doc """
  What `doctor/0` finds, as data.
  """
  @spec examine() :: [finding()]
  defdelegate examine, to: Doctor

  @doc """
  Finds out why this node and another do not connect, and prints it: step by step what was found and how long that took,
  and at the first step that fails what it means and what to do. Returns `:ok`, or `:error` when there is a problem.

      bin/app rpc 'EmbeddedEpmd.doctor(:"other@host")'

  `mix help embedded_epmd.doctor` has the steps, and what the other node sees of it: a hidden node, for some milliseconds.
  This node itself is neither connected nor disconnected.
  """
  @spec doctor(node() | String.t()) :: :ok | :error
  def doctor(node) do
    findings = examine(node)
    IO.write(Connection.format(findings))
    if Enum.any?(findings, &(&1.status == :problem)), do: :error, else: :ok
  end

  @doc """
  What `doctor/1` finds, as data.
  """
  @spec examine(node() | String.t()) :: [finding()]
  defdelegate examine(node), to: Connection

  defp running do
    with :none <- Lifecycle.server(), do: {:error, :stopped}
  end

  # An owner that is known not to answer is not waited for.
  defp count(_server, %{owner_answers: false}), do: nil

  defp count(server, _status) do
    with {:ok, names} <- names_of(server), do: length(names), else: ({:error, _} -> nil)
  end

  defp names_of(server) do
    case Native.names(server) do
      :elsewhere ->
        %{owner: owner, port: port} = Native.status(server)
        if owner, do: Client.names(ip(owner), port, @timeout), else: {:error, :searching}

      names ->
        {:ok, names}
    end
  end

  # The owner's address comes as "127.0.0.1:4369" or "[::1]:4369".
  defp ip(owner) do
    [_, host] = Regex.run(~r/^\[?(.*?)\]?:\d+$/, owner)
    {:ok, ip} = :inet.parse_address(String.to_charlist(host))
    ip
  end
end
