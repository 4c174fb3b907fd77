defmodule EmbeddedEpmd.Cluster do
  @moduledoc """
  Connects this node to the nodes of its host, as they register.

      children = [EmbeddedEpmd, {EmbeddedEpmd.Cluster, nodes: ["app*"]}]

  It learns of a node when the node registers (`EmbeddedEpmd.subscribe/1`), and connects at once. Every 5 seconds it
  tries the nodes that are registered and not connected. If this VM has neither the table nor a replica of it (`:table`
  of `t:EmbeddedEpmd.Status.t/0`), it learns of nodes only then. It never disconnects a node.

  ## Whose nodes

  Any local user may register any name. With Erlang's handshake, a process that a VM connects to can run code in that
  VM, without the cookie. So the cluster connects only to nodes of its own user, and of the users in `:users`. It trusts
  the kernel, not the name. If the owner of the port is this VM or one that `:hand_over` trusts, the user is what the
  kernel reported to the owner when the node registered. Otherwise, on Linux, it is the user whose socket listens on the
  node's port. A warning names the first node that the cluster leaves out. Over TLS with verified certificates
  (`verify_peer` among the client's options of `-ssl_dist_optfile` or `-ssl_dist_opt`) the certificate decides, and the
  user does not matter.

  A process with the same user number in a container that shares the host's network passes for the same user.

  ## Which nodes

  The cluster connects to the nodes that match `:nodes`. It expects them to have the host part of this node's name: with
  long names `app1@db.example.com`, with short ones `app1@db`. It does not reach nodes that were started under another
  host name. It ignores the VMs of `bin/app rpc` and `remote`, and does nothing in a VM of `bin/app eval`, or while this
  VM is not a node.

  With `:health`, `GET /ready` on the port answers 200 only while this node is connected to all nodes that match, except
  for those that it leaves out (`EmbeddedEpmd.ready/1`). So a node that hangs, or has another cookie, keeps the others
  from being ready while it is registered.

  It makes 16 connections at a time. A node that refuses is tried less and less often, down to every 5 minutes, until it
  registers again; one warning gives the reason. Each name that it connects to becomes an atom. When three quarters
  of the VM's atoms are used up, it logs a warning and connects to no further node.
  """

  use GenServer

  alias EmbeddedEpmd.Boot.{Environment, Lifecycle, Log, Pattern, Restrictions}
  alias EmbeddedEpmd.Cluster.Users
  alias EmbeddedEpmd.Doctor.Connection.Tls
  alias EmbeddedEpmd.{Discovery, Native}

  # How often the list of nodes is read, and the first pause before a node that refuses is tried again; milliseconds.
  @interval 5_000
  @max_pause 300_000
  # How many connections are made at a time. Each is a process and a socket, for up to 7 seconds.
  @max_connecting 16

  @typedoc """
    * `:nodes` - the names to connect to, without their hosts: one pattern or a list of them, in which `*` stands for
      any characters; or regular expressions. In the `config.exs` of a release, a regular expression needs the modifier
      `E` from OTP 28 on (`~r/^app/E`), or `mix release` refuses it; patterns work everywhere. Required.
    * `:users` - users to whose nodes it connects as well: a name, a number, or a list of them. A user that this host
      does not have yet is looked up again. Defaults to `[]`: only nodes of this VM's user.
  """
  @type option ::
          {:nodes, String.t() | Regex.t() | [String.t() | Regex.t()]}
          | {:users, String.t() | non_neg_integer() | [String.t() | non_neg_integer()]}

  @doc """
  Starts the process, which is named `EmbeddedEpmd.Cluster`. Raises an `ArgumentError` for a bad option; the message
  names the option, what is expected and what came.
  """
  @spec start_link([option()]) :: GenServer.on_start()
  def start_link(options) do
    for {key, value} <- options, key not in [:nodes, :users] do
      raise ArgumentError, "expected the options :nodes and :users, got #{inspect([{key, value}])}"
    end

    rules = {patterns!(options[:nodes]), users!(options[:users])}
    GenServer.start_link(__MODULE__, rules, name: __MODULE__)
  end

  defp patterns!([_ | _] = nodes), do: Enum.map(nodes, &pattern!(&1, nodes))
  defp patterns!(one) when is_binary(one) or is_struct(one, Regex), do: [pattern!(one, one)]
  defp patterns!(nodes), do: bad_nodes!(nodes)

  # From OTP 28 on what was compiled in another VM, as that of a configuration file may have been, cannot be used.
  defp pattern!(%Regex{} = regex, _nodes), do: Regex.compile!(Regex.source(regex), Regex.opts(regex))

  defp pattern!(text, nodes) when is_binary(text) do
    if text == "" or String.contains?(text, "@"), do: bad_nodes!(nodes)
    text
  end

  defp pattern!(_, nodes), do: bad_nodes!(nodes)

  defp bad_nodes!(nodes) do
    raise ArgumentError,
          "nodes: expected a list of patterns such as \"app*\", without hosts, or of regular expressions, " <>
            "got #{inspect(nodes)}"
  end

  defp users!(blank) when blank in [nil, ""], do: []
  defp users!(one) when is_binary(one) or is_integer(one), do: users!([one])

  defp users!(users) do
    if is_list(users) and Enum.all?(users, &((is_integer(&1) and &1 >= 0) or (is_binary(&1) and &1 != ""))) do
      Enum.map(users, &to_string/1)
    else
      raise ArgumentError, "users: expected a list of names or numbers of users, got #{inspect(users)}"
    end
  end

  @impl GenServer
  def init({patterns, users}) do
    Restrictions.new()
    # Connections come and go without a registration, too.
    _ = :net_kernel.monitor_nodes(true, node_type: :all)
    # Until it has seen who is there, not even this node is in the cluster.
    Lifecycle.put_cluster(1, 0)

    state = %{
      patterns: patterns,
      user_names: users,
      users: [],
      # The registered nodes that fit, by name.
      nodes: %{},
      # The names to which connections are being made, by process.
      connecting: %{},
      subscription: nil,
      told: MapSet.new()
    }

    {:ok, state, {:continue, :tick}}
  end

  @impl GenServer
  def handle_continue(:tick, state), do: tick(state)

  @impl GenServer
  def handle_info(:tick, state), do: tick(state)

  def handle_info({:embedded_epmd, {:registered, node}}, state), do: {:noreply, connect(add(state, node))}

  def handle_info({:embedded_epmd, {:unregistered, node}}, state),
    do: {:noreply, report(update_in(state.nodes, &Map.delete(&1, node.name)))}

  # Another server knows nothing of the cluster.
  def handle_info({:embedded_epmd, {:role, _}}, state), do: {:noreply, report(state)}
  def handle_info({change, _node, _}, state) when change in [:nodeup, :nodedown], do: {:noreply, report(state)}

  def handle_info({:DOWN, reference, :process, _, _}, %{subscription: reference} = state),
    do: {:noreply, %{state | subscription: nil}}

  def handle_info({:DOWN, _, :process, pid, outcome}, state) do
    {name, connecting} = Map.pop(state.connecting, pid)
    state = %{state | connecting: connecting}
    if name, do: Restrictions.release(name)
    {:noreply, connect(if(name, do: tried(state, name, outcome), else: state))}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp tick(state) do
    Process.send_after(self(), :tick, @interval)
    state = state |> subscribe() |> resolve_users()

    case not Environment.client?() and EmbeddedEpmd.names() do
      {:ok, nodes} ->
        names = for node <- nodes, do: node.name
        {:noreply, connect(Enum.reduce(nodes, update_in(state.nodes, &Map.take(&1, names)), &add_known(&2, &1)))}

      _ ->
        {:noreply, state}
    end
  end

  # The subscription ends with the supervised process, so it may have to be renewed.
  defp subscribe(%{subscription: nil} = state) do
    case EmbeddedEpmd.subscribe() do
      {:ok, _} -> %{state | subscription: Process.monitor(EmbeddedEpmd.Server)}
      {:error, :stopped} -> state
    end
  end

  defp subscribe(state), do: state

  # A user may be created later, as those of systemd's DynamicUser= are.
  defp resolve_users(state) do
    found = for name <- state.user_names, user = Native.user(name), do: user
    %{state | users: [Native.own_user() | found]}
  rescue
    # The library is not loaded before this VM is a node.
    _ in ErlangError -> state
  end

  ## The nodes that fit

  # A node that is known keeps its pause, unless it has registered anew.
  defp add_known(state, %{name: name, port: port} = node) do
    if match?(%{port: ^port}, state.nodes[name]), do: state, else: add(state, node)
  end

  defp add(state, %{name: name, port: port, user: user}) do
    if node_name?(name) and not command?(name) and Enum.any?(state.patterns, &matches?(name, &1)) do
      put_in(state.nodes[name], %{port: port, user: user, trusted?: true, failures: 0, due: now()})
    else
      state
    end
  end

  defp matches?(name, %Regex{} = regex), do: Regex.match?(regex, name)
  defp matches?(name, pattern), do: Pattern.matches?(name, pattern)

  # An atom has 255 characters at most.
  defp node_name?(name) do
    Node.alive?() and String.valid?(name) and not String.contains?(name, "@") and
      String.length(name) + String.length(host()) < 255
  end

  # The names that a release's script gives to the VMs of `rpc` and `remote`.
  defp command?(name), do: name =~ ~r/\A(rpc|rem)-[0-9a-f]+-/

  defp host do
    [_, host] = node() |> Atom.to_string() |> String.split("@")
    host
  end

  ## Connections

  # Connects to the nodes that are due, those that have waited longest first.
  defp connect(state) do
    free = @max_connecting - map_size(state.connecting)
    {now, connected, trusted} = {now(), connected(), trusted(state)}

    due =
      for {name, %{due: due, user: user}} when due <= now <- state.nodes,
          name not in Map.values(state.connecting) and not connected?(name, connected),
          do: {due, name, user}

    {ours, others} = Enum.split_with(due, fn {_, _, user} -> trusted?(user, trusted) end)
    state = Enum.reduce(others, state, fn {_, name, user}, state -> leave_out(state, name, user) end)

    ours
    |> Enum.sort()
    |> Enum.take(max(free, 0))
    |> Enum.reduce(report(state, connected, trusted), &start_connecting(&2, elem(&1, 1)))
  end

  defp start_connecting(state, name) do
    if 4 * :erlang.system_info(:atom_count) < 3 * :erlang.system_info(:atom_limit) do
      unless verified?(), do: Restrictions.restrict(name, state.users, &Users.listen?/3)
      tell? = state.nodes[name].failures == 0
      # Node.connect/1 may block for the distribution's whole time-out.
      {pid, _} = spawn_monitor(fn -> exit(attempt(name, host(), tell?)) end)
      put_in(state.connecting[pid], name)
    else
      tell_once(state, :atoms, "three quarters of this VM's atoms are used up: the cluster connects to no further node")
    end
  end

  # Runs in a process of its own. A name of which the lookup finds no trusted node does not become an atom.
  defp attempt(name, host, tell?) do
    with {:port, _, _} <- look_up(name, host),
         node = :"#{name}@#{host}",
         {:refused, _} <- if(Node.connect(node) == true, do: :connected, else: {:refused, node}),
         {:port, _, _} <- look_up(name, host) do
      if tell?, do: {:refused, reason(node)}, else: :refused
    else
      :connected -> :connected
      {:error, :eacces} -> :not_trusted
      _ -> :gone
    end
  end

  defp look_up(name, host), do: Discovery.port_please(to_charlist(name), to_charlist(host))

  defp reason(node) do
    findings = EmbeddedEpmd.examine(node)
    finding = Enum.find(findings, &(&1.status == :problem)) || Enum.find(findings, &(&1.status == :warning))
    if finding, do: finding.what, else: "the doctor finds no reason"
  end

  defp tried(state, name, outcome) do
    case {state.nodes[name], outcome} do
      {nil, _} ->
        state

      {_, :connected} ->
        put_in(state.nodes[name].failures, 0)

      {node, outcome} ->
        pause = min(@interval * Integer.pow(2, min(node.failures, 10)), @max_pause)
        node = %{node | failures: node.failures + 1, due: now() + pause, trusted?: outcome != :not_trusted}
        state = put_in(state.nodes[name], node)
        tell(state, name, outcome)
    end
  end

  defp tell(state, name, :not_trusted), do: leave_out(state, name, nil)

  defp tell(state, name, {:refused, reason}) do
    Log.log(:warning, "the cluster does not reach a node, and tries it less and less often until it registers anew",
      name: name,
      reason: reason
    )

    state
  end

  defp tell(state, _name, _outcome), do: state

  defp leave_out(state, name, user) do
    sentence =
      if user,
        do: "a node that fits the cluster belongs to user #{user}: name the user in users: to connect to it",
        else:
          "the user of a node that fits the cluster cannot be determined: it is connected only over TLS with verified certificates"

    tell_once(state, if(user, do: :other_user, else: :unknown_user), sentence, name: name)
  end

  defp tell_once(state, what, sentence, fields \\ []) do
    unless what in state.told, do: Log.log(:warning, sentence, fields)
    update_in(state.told, &MapSet.put(&1, what))
  end

  # Says how many nodes there are to be, and how many of these there are, this one included (`EmbeddedEpmd.ready/1`). A
  # node that is left out is not expected.
  defp report(state), do: report(state, connected(), trusted(state))

  defp report(state, connected, trusted) do
    if Node.alive?() do
      expected =
        for {name, node} <- state.nodes,
            full_name(name) != Atom.to_string(node()) and node.trusted? and trusted?(node.user, trusted),
            do: name

      Lifecycle.put_cluster(1 + length(expected), 1 + Enum.count(expected, &connected?(&1, connected)))
    else
      Lifecycle.put_cluster(1, 0)
    end

    state
  end

  # Over TLS with verified certificates the user does not matter. Whose a node is may only be known at its lookup.
  defp trusted(state), do: if(verified?(), do: :all, else: [nil | state.users])
  defp trusted?(user, trusted), do: trusted == :all or user in trusted

  # Comparing texts creates no atom.
  defp connected, do: MapSet.new([node() | Node.list(:connected)], &Atom.to_string/1)
  defp connected?(name, connected), do: MapSet.member?(connected, full_name(name))
  defp full_name(name), do: "#{name}@#{host()}"

  # Whether the other side must present a certificate that this VM's options make it check.
  defp verified?, do: Environment.tls?() and Tls.options()[:verify] == :verify_peer

  defp now, do: System.monotonic_time(:millisecond)
end
