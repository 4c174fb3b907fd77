defmodule EmbeddedEpmd.Doctor do
  @moduledoc false
  # Facts about this VM and its host, and what they mean. Gathering is one half, judging is the other and is pure.

  alias EmbeddedEpmd.{Client, Discovery}

  @loopback {127, 0, 0, 1}
  @timeout 2_000
  # Each registered node keeps a descriptor of the VM that serves.
  @few_descriptors 1_024

  @type finding :: EmbeddedEpmd.finding()

  @doc "What can be said of this VM."
  @spec examine() :: [finding()]
  def examine, do: judge(facts())

  ## Facts

  @doc false
  def facts do
    status = EmbeddedEpmd.status()
    port = status.port || EmbeddedEpmd.Config.load().port

    %{
      module: argument(:epmd_module) || parameter(:epmd_module) || "erl_epmd",
      both: argument(:epmd_module) != nil and parameter(:epmd_module) != nil,
      fixed_port: argument(:erl_epmd_port) || parameter(:erl_epmd_node_listen_port),
      start_epmd: argument(:start_epmd) || "true",
      release: System.get_env("RELEASE_ROOT") != nil,
      remote_vm_args: remote_vm_args(),
      status: status,
      port: port,
      holders: holders(port),
      daemons: daemons(),
      node: node(),
      registered: registered(port),
      host: host(),
      ipv6_distribution: argument(:proto_dist) in ["inet6_tcp", "inet6_tls"],
      descriptor_limit: descriptor_limit()
    }
  end

  # OTP 27.2 and later have kernel parameters beside the flags.
  defp parameter(name), do: with(value when value != nil <- Application.get_env(:kernel, name), do: to_string(value))

  # `-flag value`, wherever it was given.
  defp argument(flag) do
    case :init.get_argument(flag) do
      {:ok, values} -> values |> List.last() |> List.first(~c"") |> to_string()
      :error -> nil
    end
  end

  defp remote_vm_args do
    with root when is_binary(root) <- System.get_env("RELEASE_ROOT"),
         version when is_binary(version) <- System.get_env("RELEASE_VSN"),
         path = System.get_env("RELEASE_REMOTE_VM_ARGS") || Path.join([root, "releases", version, "remote.vm.args"]),
         {:ok, text} <- File.read(path) do
      {path, text}
    else
      _ -> nil
    end
  end

  # The own node, as others see it: its name looked up where they would, against the port it has.
  defp registered(port) do
    with true <- Node.alive?(),
         [name, _host] <- node() |> Atom.to_string() |> String.split("@"),
         {:ok, ip} <- own_address() do
      for address <- Enum.uniq([@loopback, ip]), do: {address, Client.port(name, address, port, @timeout)}
    else
      _ -> []
    end
  end

  defp own_address do
    [_, host] = node() |> Atom.to_string() |> String.split("@")
    resolve(String.to_charlist(host))
  end

  defp host do
    {:ok, name} = :inet.gethostname()
    {to_string(name), resolve(name)}
  end

  defp resolve(name) do
    with {:error, _} <- :inet.getaddr(name, :inet), do: :inet.getaddr(name, :inet6)
  end

  # Who listens on the port, as far as Linux lets this user see: `{pid, program, user id}`; `:unknown` elsewhere.
  defp holders(port) do
    with {:ok, inodes} <- listening(port) do
      for pid <- processes(), holds?(pid, inodes), do: {pid, program(pid), user(pid)}
    end
  end

  defp listening(port) do
    lines =
      for file <- ["/proc/net/tcp", "/proc/net/tcp6"],
          {:ok, text} <- [File.read(file)],
          line <- text |> String.split("\n") |> Enum.drop(1),
          do: String.split(line)

    inodes =
      for [_, local, _, "0A" | rest] <- lines,
          [_, hex] = String.split(local, ":"),
          String.to_integer(hex, 16) == port,
          do: "socket:[#{Enum.at(rest, 5)}]"

    if File.exists?("/proc/net/tcp"), do: {:ok, inodes}, else: :unknown
  end

  defp processes do
    with {:ok, names} <- File.ls("/proc"), do: Enum.filter(names, &(&1 =~ ~r/^\d+$/)), else: (_ -> [])
  end

  defp holds?(pid, inodes) do
    with {:ok, descriptors} <- File.ls("/proc/#{pid}/fd") do
      Enum.any?(descriptors, fn descriptor ->
        with {:ok, link} <- File.read_link("/proc/#{pid}/fd/#{descriptor}"), do: link in inodes, else: (_ -> false)
      end)
    else
      _ -> false
    end
  end

  defp program(pid) do
    with {:ok, name} <- File.read("/proc/#{pid}/comm"), do: String.trim(name), else: (_ -> "?")
  end

  defp user(pid) do
    with {:ok, %{uid: user}} <- File.stat("/proc/#{pid}"), do: user, else: (_ -> nil)
  end

  defp daemons, do: for(pid <- processes(), program(pid) == "epmd", running?(pid), do: pid)

  # One that ended and that nobody waited for has no program any more.
  defp running?(pid), do: match?({:ok, text} when text != "", File.read("/proc/#{pid}/cmdline"))

  defp descriptor_limit do
    with {:ok, text} <- File.read("/proc/self/limits"),
         [_, limit] <- Regex.run(~r/^Max open files +(\d+)/m, text) do
      String.to_integer(limit)
    else
      _ -> nil
    end
  end

  ## Findings

  @doc false
  @spec judge(map()) :: [finding()]
  def judge(facts) do
    [
      module(facts),
      both(facts),
      fixed_port(facts),
      start_epmd(facts),
      remote(facts),
      role(facts),
      standby(facts),
      holder(facts),
      daemon(facts),
      registration(facts),
      host_name(facts),
      ipv6(facts),
      descriptors(facts)
    ]
    |> List.flatten()
  end

  @doc "Those of the findings that are about the host, and not about this VM."
  @spec judge_host(map()) :: [finding()]
  def judge_host(facts), do: List.flatten([both(facts), holder(facts), daemon(facts)])

  defp module(%{module: module}) do
    if to_string(module) == to_string(Discovery) do
      ok("The discovery module of this VM is EmbeddedEpmd.Discovery.")
    else
      problem(
        "The discovery module of this VM is #{module}.",
        "Its node is registered with the EPMD that this module finds or starts, and not through embedded_epmd.",
        "Write -epmd_module Elixir.EmbeddedEpmd.Discovery into rel/vm.args.eex (mix embedded_epmd.install does it)."
      )
    end
  end

  defp both(%{both: true}) do
    problem(
      "Both the flag -epmd_module and the kernel parameter epmd_module are set.",
      "A VM of OTP 27.2 or later does not start with both; an earlier one ignores the parameter.",
      "Remove the parameter from config.exs, runtime.exs or sys.config: the flag works everywhere."
    )
  end

  defp both(_facts), do: []

  defp fixed_port(%{fixed_port: port}) when port != nil do
    warning(
      "This node has the fixed distribution port #{port} (-erl_epmd_port or erl_epmd_node_listen_port).",
      "It takes every other node to have that port, too, and asks no EPMD.",
      "Remove it, or do without embedded_epmd: with a fixed port nobody needs an EPMD."
    )
  end

  defp fixed_port(_facts), do: []

  defp start_epmd(%{start_epmd: "false"}), do: ok("This VM starts no epmd daemon.")

  defp start_epmd(_facts) do
    problem(
      "-start_epmd false is not set.",
      "OTP starts an epmd daemon when the node starts; it takes the port, or stays behind as a stray process.",
      "Write -start_epmd false into rel/vm.args.eex and rel/remote.vm.args.eex. The flag counts, not the kernel " <>
        "parameter start_distribution."
    )
  end

  defp remote(%{remote_vm_args: nil, release: true}) do
    warning(
      "The release's remote.vm.args cannot be read.",
      "Without -start_epmd false in it, bin/app rpc, remote, stop and pid start an epmd daemon.",
      "Create rel/remote.vm.args.eex with -start_epmd false, and assemble the release again."
    )
  end

  defp remote(%{remote_vm_args: {path, text}}) do
    if text =~ ~r/^\s*-start_epmd\s+false\b/m do
      ok("bin/app rpc and its like start no epmd daemon.")
    else
      problem(
        "#{path} does not have -start_epmd false.",
        "bin/app rpc, remote, stop and pid start an epmd daemon, which takes the port when no release serves it.",
        "Write -start_epmd false into rel/remote.vm.args.eex, and assemble the release again."
      )
    end
  end

  defp remote(_facts), do: []

  defp role(%{status: %{role: :serving} = status, port: port}) do
    ok("This VM serves port #{port} on #{Enum.join(status.addresses, ", ")}.")
  end

  defp role(%{status: %{role: :joined, owner_answers: true, stands_by: true} = status}) do
    ok("This VM has joined #{status.owner} and stands by for it: when that goes, no connection ends.")
  end

  defp role(%{status: %{role: :joined, owner_answers: true} = status}) do
    ok("This VM has joined #{status.owner}, and takes the port when that goes.")
  end

  defp role(%{status: %{role: :joined} = status}) do
    problem(
      "#{status.owner} holds the port and does not answer.",
      "New nodes of this host are not found until it answers or ends.",
      "Look at the process that owns the port, and end it if it hangs: another VM takes its place at once."
    )
  end

  defp role(%{status: %{role: :searching}, port: port}) do
    problem(
      "This VM looks for port #{port} or its owner.",
      "Its node is registered nowhere at this moment.",
      "Ask again in a second. If it stays so, look at the log, and at who owns the port."
    )
  end

  defp role(%{status: %{role: :stopped}}) do
    problem(
      "No server of embedded_epmd runs in this VM.",
      "It neither serves the port nor takes it when its owner goes.",
      "Add EmbeddedEpmd to the children of your application's supervisor."
    )
  end

  defp holder(%{holders: :unknown}),
    do: warning("Who owns the port cannot be seen on this system.", "Only Linux tells it in /proc.", "Nothing.")

  defp holder(%{holders: [], port: port}) do
    warning(
      "No process that this user can see listens on port #{port}.",
      "It belongs to another user's process, or to nobody.",
      "Run this as root to see every process."
    )
  end

  defp holder(%{holders: [_, _ | _] = holders, port: port}) do
    ok("Port #{port} is held by #{programs(holders)}: by its owner, and by who stands by for it.")
  end

  defp holder(%{holders: holders, port: port}), do: ok("Port #{port} is owned by #{programs(holders)}.")

  defp programs(holders) do
    names = for {pid, program, user} <- holders, do: "#{program} (pid #{pid}, user id #{user})"
    Enum.join(names, ", ")
  end

  defp standby(%{status: %{role: :serving, standby: nil}}),
    do: ok("Nobody stands by for this VM: when it goes, stock nodes register again, which takes them 2 seconds.")

  defp standby(%{status: %{role: :serving, standby: standby}}) do
    ok(
      "#{standby.name || "A VM without a node"} (pid #{standby.pid}) stands by: when this VM goes, no connection ends."
    )
  end

  defp standby(_facts), do: []

  defp daemon(%{daemons: []}), do: ok("No epmd daemon runs on this host.")

  defp daemon(%{daemons: daemons}) do
    warning(
      "An epmd daemon runs: pid #{Enum.join(daemons, ", ")}.",
      "Where it has the port, everything works, and ends with it: a VM of ours takes the port then.",
      "Find out who starts it (an epmd.service or epmd.socket of systemd, a release without the flags), and remove that."
    )
  end

  defp registration(%{node: :nonode@nohost}),
    do: warning("This VM is no node.", "There is no name to be found.", "Nothing.")

  defp registration(%{registered: asked}) do
    for {ip, answer} <- asked do
      where = to_string(:inet.ntoa(ip))

      case answer do
        {:port, port, _} ->
          ok("At #{where} this node is found, with port #{port}.")

        other ->
          problem(
            "At #{where} this node is not found: #{explain(other)}.",
            "Nodes that resolve this host to #{where} cannot connect.",
            "Listen there as well (:addresses or ERL_EPMD_ADDRESS), or give the node a host name that resolves elsewhere."
          )
      end
    end
  end

  defp explain(:noport), do: "no such name is registered there"
  defp explain({:error, reason}), do: to_string(:inet.format_error(reason))

  defp host_name(%{host: {name, {:error, _}}}) do
    warning(
      "The host name #{name} has no address.",
      "Short names (-sname) of other nodes are looked up under it.",
      "Add it to /etc/hosts or to the DNS, or use long names (-name) with an address."
    )
  end

  defp host_name(%{host: {name, {:ok, ip}}, status: %{role: :serving, addresses: addresses}}) do
    where = to_string(:inet.ntoa(ip))

    if where in addresses or any(ip) in addresses do
      ok("The host name #{name} is #{where}, where this VM listens.")
    else
      warning(
        "The host name #{name} is #{where}, where this VM does not listen.",
        "Nodes with short names on this host look each other up there. Debian writes 127.0.1.1 into /etc/hosts.",
        "Add #{where} to :addresses (ERL_EPMD_ADDRESS), or correct /etc/hosts."
      )
    end
  end

  defp host_name(_facts), do: []

  defp any(ip) when tuple_size(ip) == 4, do: "0.0.0.0"
  defp any(_ip), do: "::"

  defp ipv6(%{ipv6_distribution: true, status: %{role: :serving, addresses: addresses}}) do
    if Enum.any?(addresses, &(&1 =~ ":")) do
      ok("Distribution is over IPv6, and so is the port.")
    else
      problem(
        "Distribution is over IPv6, but the port is served on #{Enum.join(addresses, ", ")} only.",
        "Other nodes look names up over IPv6 and reach nobody.",
        "Add ::1 and the host's IPv6 addresses to :addresses (ERL_EPMD_ADDRESS), or name none to listen everywhere."
      )
    end
  end

  defp ipv6(_facts), do: []

  defp descriptors(%{descriptor_limit: limit}) when is_integer(limit) and limit < @few_descriptors do
    warning(
      "This VM may open #{limit} descriptors.",
      "Each node that is registered here keeps one, and so does everything else in the VM.",
      "Raise the limit: LimitNOFILE= in the unit, ulimit -n in a shell."
    )
  end

  defp descriptors(%{descriptor_limit: nil}), do: []
  defp descriptors(%{descriptor_limit: limit}), do: ok("This VM may open #{limit} descriptors.")

  @doc false
  def ok(what), do: %{status: :ok, what: what, why: nil, do: nil}
  defp warning(what, why, action), do: %{status: :warning, what: what, why: why, do: action}

  @doc false
  def problem(what, why, action), do: %{status: :problem, what: what, why: why, do: action}

  ## Text

  @doc "The findings in plain sentences."
  @spec format([finding()]) :: String.t()
  def format(findings), do: Enum.map_join(findings, &line/1)

  defp line(%{status: :ok, what: what}), do: "ok       #{what}\n"

  defp line(%{status: status} = finding),
    do: mark(status) <> "#{finding.what}\n         #{finding.why}\n         Do: #{finding.do}\n"

  defp mark(:warning), do: "warning  "
  defp mark(:problem), do: "PROBLEM  "
end
