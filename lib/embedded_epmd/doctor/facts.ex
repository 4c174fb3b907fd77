defmodule EmbeddedEpmd.Doctor.Facts do
  @moduledoc false
  # Gathers facts about this VM, its release and the host. `Findings` judges them.

  alias EmbeddedEpmd.Boot.{Client, Config, Environment, HostAddress, Lifecycle}
  alias EmbeddedEpmd.Doctor.{Cookie, Departed, Linux, Listener, Unregistered, VmArgs}
  alias EmbeddedEpmd.{Stats, Status}

  @timeout 2_000
  # How long a VM may take to register, or to end, until it counts as one that is not registered; and how long to wait for
  # the next life of one that ends again and again. Milliseconds.
  @settles 1_000
  @comes_back 2_000
  @pause 100

  @typedoc "The address at which an EPMD was asked for a name, and what it answered."
  @type answer :: {:inet.ip_address(), Client.answer() | {:error, atom()}}

  @spec gather() :: map()
  def gather do
    status = Status.read()
    config = config()
    port = status.port || config.port
    release = release()
    remote_vm_args = release_file("RELEASE_REMOTE_VM_ARGS", "remote.vm.args")
    vm_args = release_file("RELEASE_VM_ARGS", "vm.args")

    host(port)
    |> Map.merge(flags(release, vm_args, remote_vm_args))
    |> Map.merge(departed())
    |> Map.merge(exposed(config))
    |> Map.merge(%{
      settings: config.error,
      ignored: Config.ignored(),
      hand_over: config.hand_over,
      descriptor_share: config[:descriptor_share],
      reserved_names: config[:reserved_names] || [],
      module: module(),
      both: argument(:epmd_module) != nil and parameter?(),
      parameter_ignored: parameter?() and not parameter_read?(),
      fixed_port: fixed_port(),
      # erlexec takes the last one.
      start_epmd: List.last(arguments(:start_epmd), "true"),
      release: release,
      vm_args: vm_args,
      remote_vm_args: remote_vm_args,
      allow: config[:allow],
      port_range: {parameter(:inet_dist_listen_min), parameter(:inet_dist_listen_max)},
      addresses: addresses(status, config),
      status: status,
      stats: read(&{:ok, Stats.read(&1)}, nil),
      # systemd gives it to every service.
      service: System.get_env("INVOCATION_ID") != nil,
      netlink: netlink(),
      node: node(),
      ipv6: Environment.family() == :inet6,
      look_up: look_up(port, release),
      host: host_name(port)
    })
  end

  # What the server of this VM says, if there is one and it has that.
  defp read(read, default) do
    with {:ok, server} <- Lifecycle.server(), {:ok, said} <- read.(server) do
      said
    else
      _ -> default
    end
  end

  @doc "The facts about the host only."
  @spec host() :: map()
  def host, do: host(config().port)

  defp host(port) do
    sockets = Linux.listening(port)
    names = names(port)

    %{
      linux: match?({:unix, :linux}, :os.type()),
      port: port,
      sockets: sockets,
      holders: if(sockets == :unknown, do: [], else: Linux.holders(sockets, port)),
      names: names,
      unregistered: unregistered(names, port)
    }
  end

  # One that is booting, or a client that is ending, is not registered for a moment.
  defp unregistered(names, port) do
    case Unregistered.of(vms(), names, port) do
      [] ->
        []

      vms ->
        Process.sleep(@settles)
        still = Unregistered.of(vms(), names(port), port)
        pids = MapSet.new(vms, & &1.pid)
        Enum.filter(still, &(&1.pid in pids))
    end
  end

  defp vms, do: Linux.with_ports(Linux.vms())

  @doc "Who has left, and where those that come and go write their crash dumps."
  @spec departed() :: map()
  def departed do
    departed = read(&EmbeddedEpmd.Departed.read/1, [])
    now = DateTime.utc_now()
    loops = for left <- departed, Departed.loops?(left, now), do: left.name
    %{departed: departed, now: now, dumps: crash_dumps(loops, System.monotonic_time(:millisecond) + @comes_back)}
  end

  # Where the VMs of these nodes, which come and go, write their crash dumps: known only while they run.
  defp crash_dumps([], _until), do: %{}

  defp crash_dumps(names, until) do
    dumps =
      for vm <- Linux.vms(),
          name = hd(String.split(vm.node, "@")),
          name in names,
          vm.crash_dump,
          do: {name, vm.crash_dump}

    if dumps != [] or System.monotonic_time(:millisecond) >= until do
      Map.new(dumps)
    else
      Process.sleep(@pause)
      crash_dumps(names, until)
    end
  end

  # An invalid setting is a finding; the other facts are gathered all the same.
  defp config do
    Map.put(Config.load(Lifecycle.options()), :error, nil)
  rescue
    error in ArgumentError -> %{port: 4369, hand_over: true, error: error.message}
  end

  # OTP itself decides between flag and parameter. It raises if a node could not start.
  defp module do
    to_string(:net_kernel.epmd_module())
  catch
    _, _ -> argument(:epmd_module)
  end

  defp parameter?, do: parameter(:epmd_module) != nil
  defp parameter(name), do: Application.get_env(:kernel, name)

  @doc "Whether this OTP, 27.2 or later, reads the kernel parameter `epmd_module`."
  @spec parameter_read?() :: boolean()
  def parameter_read? do
    [major, minor | _] = :kernel |> Application.spec(:vsn) |> to_string() |> String.split(".")
    {String.to_integer(major), minor |> Integer.parse() |> elem(0)} >= {10, 2}
  end

  defp fixed_port do
    with {:ok, port} when port != 0 <- :erl_epmd.listen_port_please(~c"doctor", ~c"localhost"),
         do: port,
         else: (_ -> nil)
  end

  # `-flag value`: OTP takes the first one.
  defp argument(flag), do: flag |> arguments() |> List.first()

  defp arguments(flag) do
    case :init.get_argument(flag) do
      {:ok, values} -> for value <- values, do: value |> List.first(~c"") |> to_string()
      :error -> []
    end
  end

  ## The release

  # `node` is the release's setting, `app` or `app@host`; nil if the release is not a node.
  defp release do
    with root when is_binary(root) <- System.get_env("RELEASE_ROOT") do
      node = System.get_env("RELEASE_NODE") || System.get_env("RELEASE_NAME")
      node = if System.get_env("RELEASE_DISTRIBUTION") != "none", do: node
      process = if(node && not Node.alive?(), do: Linux.node_process(node))
      %{root: root, node: node, process: process && process.pid, flags: process && process.flags}
    end
  end

  # Those of the node, of the release's clients, and of whoever calls them.
  defp flags(release, vm_args, remote_vm_args) do
    own = for {name, values} <- :init.get_arguments(), do: {"-#{name}", Enum.map(values, &to_string/1)}
    file = of_file(vm_args)

    node =
      cond do
        Node.alive?() -> own
        release && release.flags -> release.flags
        true -> file
      end

    # The script of the release runs before all its commands.
    script = with({_path, text} <- release_file("", "env.sh"), do: VmArgs.of_script(text), else: (_ -> []))
    shell = if Node.alive?(), do: [], else: VmArgs.of_environment(System.get_env())

    %{
      node_flags: node,
      file_flags: file,
      client_flags: of_file(remote_vm_args) ++ script ++ shell,
      # A flag that OTP has not understood keeps this VM from becoming a node.
      own_flags: own
    }
  end

  defp of_file(nil), do: []
  defp of_file({_path, text}), do: VmArgs.flags(text)

  @doc "What of the distribution other hosts reach."
  @spec exposed() :: map()
  def exposed, do: exposed(config())

  defp exposed(config) do
    %{
      distribution: Listener.of_distribution(),
      networks: Listener.networks(),
      weak_cookie: Node.alive?() and Cookie.weak?(:erlang.get_cookie(), node()),
      local: config[:local]
    }
  end

  # Where this VM serves or, once it does, will.
  defp addresses(%{role: :serving, addresses: addresses}, _config), do: addresses
  defp addresses(_status, config), do: Map.get(config, :addresses, [])

  defp release_file(variable, name) do
    with root when is_binary(root) <- System.get_env("RELEASE_ROOT"),
         version when is_binary(version) <- System.get_env("RELEASE_VSN"),
         path = System.get_env(variable) || Path.join([root, "releases", version, name]),
         {:ok, text} <- File.read(path) do
      {path, text}
    else
      _ -> nil
    end
  end

  ## Where nodes ask

  # Looks up this VM's node, or else the release's, where other nodes do: at the address of its host. Also asks at the
  # loopback address, where OTP's client registers regardless of the configured addresses.
  defp look_up(port, release) do
    with name when is_binary(name) <- subject(release) do
      [short, host] = String.split(name, "@")
      ask = fn ip -> {ip, Client.port(short, ip, port, @timeout)} end
      address = resolve(host)

      %{
        node: name,
        host: with({:ok, ip} <- address, do: ask.(ip)),
        own_address: with({:ok, ip} <- address, do: HostAddress.own?(ip), else: (_ -> false)),
        loopback: ask.(HostAddress.loopback())
      }
    end
  end

  defp subject(release) do
    case {Node.alive?(), release} do
      {true, _} -> Atom.to_string(node())
      {false, %{node: node}} when is_binary(node) -> if node =~ "@", do: node, else: node <> "@" <> own_host()
      _ -> nil
    end
  end

  # OTP completes a name without a host in the same way.
  defp own_host do
    host = to_string(:net_adm.localhost())
    if System.get_env("RELEASE_DISTRIBUTION") == "name", do: host, else: host |> String.split(".") |> hd()
  end

  defp resolve(host), do: :inet.getaddr(String.to_charlist(host), Environment.family())

  defp names(port), do: Client.names(HostAddress.loopback(), port, @timeout)

  # Whether an EPMD answers at the address of this host's name. No node need be called "doctor".
  defp host_name(port) do
    {:ok, name} = :inet.gethostname()
    host = to_string(name)

    with {:ok, ip} <- resolve(host),
         do: {host, {ip, Client.port("doctor", ip, port, @timeout)}},
         else: ({:error, reason} -> {host, {:error, reason}})
  end

  # A systemd unit may forbid a socket of sock_diag, over which the kernel is asked whose a registration is: AF_NETLINK, NETLINK_SOCK_DIAG.
  defp netlink do
    with {:ok, socket} <- :socket.open(16, :raw, 4), do: :socket.close(socket)
  end
end
