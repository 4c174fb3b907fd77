defmodule EmbeddedEpmd.Doctor.Findings do
  @moduledoc false
  # Judges the facts. Pure.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Discovery
  alias EmbeddedEpmd.Doctor.{Departed, Exposed, Finding, LookUp, Owner, VmArgs}

  # Each registered node keeps a descriptor of the VM that serves.
  @few_descriptors 1_024
  @nearly_all 0.8

  @spec judge(map()) :: [Finding.t()]
  def judge(facts) do
    List.flatten([
      settings(facts),
      ignored(facts.ignored),
      flags(facts),
      role(facts),
      Exposed.judge(facts),
      standby(facts),
      reserved_names(facts),
      Owner.judge(facts),
      LookUp.judge(facts),
      Departed.judge(facts),
      descriptors(facts)
    ])
  end

  defp settings(%{settings: nil}), do: []

  defp settings(%{settings: sentence}),
    do: problem("A setting is not valid: #{sentence}.", "No server can start with it.", "Correct it where it stands.")

  @doc "Settings that nobody knows, given as sentences."
  @spec ignored([String.t()]) :: [Finding.t()]
  def ignored(sentences) do
    for sentence <- sentences do
      warning(
        sentence <> if(String.ends_with?(sentence, "?"), do: "", else: "."),
        "What was meant by it does not hold: its default does, or what another source says.",
        "Correct its name where it stands, or remove it."
      )
    end
  end

  ## Flags and parameters

  # Neither this VM nor its release is a node.
  defp flags(%{look_up: nil}),
    do: ok("Neither this VM nor its release is a node, so it needs no EPMD.")

  defp flags(facts),
    do:
      [module(facts), both(facts), fixed_port(facts), start_epmd(facts), no_epmd(facts), remote(facts)] ++
        [transport(facts), unread(facts)]

  defp module(%{module: module} = facts) do
    if to_string(module) == to_string(Discovery) do
      ok("The discovery module of this VM is EmbeddedEpmd.Discovery.")
    else
      fault(facts).(
        "The discovery module of this VM is #{module}.",
        "Its node is registered with the EPMD that this module finds or starts, and not through embedded_epmd." <>
          if(facts.parameter_ignored, do: " OTP reads the kernel parameter epmd_module from 27.2 on.", else: ""),
        "Write -epmd_module #{Discovery} into #{template(facts.vm_args, facts.release, "vm.args.eex")} " <>
          "(mix embedded_epmd.install does it)."
      )
    end
  end

  # Without its flags a release cannot boot unless an EPMD runs already. A VM that was started by hand, and is found,
  # works.
  defp fault(%{release: nil, look_up: %{host: {_, {:port, _, _}}}}), do: &warning/3
  defp fault(_facts), do: &problem/3

  # The file to write a flag into: the template, unless RELEASE_VM_ARGS or the like names another file.
  defp template({path, _text}, %{root: root}, name),
    do: if(String.starts_with?(path, root <> "/releases/"), do: "rel/" <> name, else: path)

  defp template(_file, _release, name), do: "rel/" <> name

  # Before 27.2 OTP ignores the parameter.
  defp both(%{both: true, parameter_ignored: ignored?}) do
    finding = if ignored?, do: &warning/3, else: &problem/3

    finding.(
      "Both the flag -epmd_module and the kernel parameter epmd_module are set.",
      "A VM of OTP 27.2 or later does not start with both; an earlier one ignores the parameter.",
      "Remove the parameter from config.exs, runtime.exs or sys.config: the flag works everywhere."
    )
  end

  defp both(_facts), do: []

  defp fixed_port(%{fixed_port: port}) when port != nil do
    warning(
      "This node has the fixed distribution port #{port} (-erl_epmd_port or erl_epmd_node_listen_port).",
      "It expects every other node at the same port, and asks no EPMD.",
      "Remove it, or do without embedded_epmd: with a fixed port nobody needs an EPMD."
    )
  end

  defp fixed_port(_facts), do: []

  defp start_epmd(%{start_epmd: "false"}), do: ok("This VM starts no epmd daemon.")

  defp start_epmd(facts) do
    files =
      Enum.uniq([
        template(facts.vm_args, facts.release, "vm.args.eex"),
        template(facts.remote_vm_args, facts.release, "remote.vm.args.eex")
      ])

    fault(facts).(
      "-start_epmd false is not set.",
      "OTP starts an epmd daemon when the node starts; it takes the port, or stays behind as a stray process.",
      "Write -start_epmd false into #{Enum.join(files, " and ")}. The flag counts, not the kernel parameter " <>
        "start_distribution."
    )
  end

  defp no_epmd(facts) do
    files = [
      {facts.node_flags ++ facts.own_flags, facts.vm_args, "vm.args.eex"},
      {facts.client_flags, facts.remote_vm_args, "remote.vm.args.eex"}
    ]

    for {flags, file, name} <- files, VmArgs.no_epmd?(flags) do
      problem(
        "-no_epmd is set.",
        "OTP asks no discovery module with it: a VM that it is given does not become a node.",
        "Remove it from #{template(file, facts.release, name)}, or from ERL_FLAGS and the like: -start_epmd false is enough."
      )
    end
  end

  # The clients of a release must use the transport of its node.
  defp transport(%{release: nil}), do: []
  defp transport(%{remote_vm_args: nil}), do: []

  defp transport(%{node_flags: node, client_flags: clients, file_flags: file} = facts) do
    remote = template(facts.remote_vm_args, facts.release, "remote.vm.args.eex")
    vm_args = template(facts.vm_args, facts.release, "vm.args.eex")

    case {VmArgs.transports_differ(node, clients), VmArgs.transport_lacks(clients, node),
          VmArgs.transport_lacks(node, clients)} do
      {{of_node, of_clients}, _, _} ->
        problem(
          "The node has -proto_dist #{of_node}, and bin/app rpc and its like have -proto_dist #{of_clients}.",
          "They cannot connect to it: rpc, remote, stop and pid do not work.",
          "Write the same into #{vm_args} and #{remote}."
        )

      {nil, [_ | _] = lacking, _} ->
        # Whoever calls rpc may have the node's variables as well, as in a container.
        from_file? = Enum.all?(lacking, &(&1 in file))
        unless_set = if from_file?, do: "", else: ", unless it has the node's environment (ERL_AFLAGS or the like)"

        if(from_file?, do: &problem/3, else: &warning/3).(
          "The node has #{lines(lacking)}, and remote.vm.args has not.",
          "bin/app rpc, remote, stop and pid cannot connect to a node with another transport.",
          "Write that into #{remote}#{unless_set}, or set ERL_AFLAGS in rel/env.sh.eex, which holds for both."
        )

      {nil, [], [_ | _] = lacking} ->
        problem(
          "remote.vm.args has #{lines(lacking)}, and the node has not.",
          "bin/app rpc, remote, stop and pid cannot connect to a node with another transport.",
          "Write that into #{vm_args} as well, or remove it from #{remote}."
        )

      {nil, [], []} ->
        []
    end
  end

  defp lines(flags), do: Enum.map_join(flags, " and ", &VmArgs.line/1)

  defp unread(%{file_flags: file, client_flags: clients}) do
    for path <- VmArgs.unread(file) ++ VmArgs.unread(clients) do
      warning(
        "The arguments file #{path}, which another one includes (-args_file), cannot be read.",
        "Its flags count as well: one that contradicts, or that the other file lacks, is not noticed.",
        "Run this where that path leads to the file, as a user who may read it."
      )
    end
  end

  defp remote(%{release: nil}), do: []

  defp remote(%{remote_vm_args: nil}) do
    warning(
      "The release's remote.vm.args cannot be read.",
      "Without -start_epmd false in it, bin/app rpc, remote, stop and pid start an epmd daemon.",
      "Create rel/remote.vm.args.eex with -start_epmd false, and assemble the release again."
    )
  end

  defp remote(%{remote_vm_args: {path, _text} = file, release: release} = facts) do
    if VmArgs.value(facts.client_flags, "-start_epmd") == "false" do
      ok("bin/app rpc and its like start no epmd daemon.")
    else
      place = template(file, release, "remote.vm.args.eex")

      problem(
        "#{path} does not have -start_epmd false.",
        "bin/app rpc, remote, stop and pid start an epmd daemon, which takes the port when no release serves it.",
        "Write -start_epmd false into #{place}" <> if(place == path, do: ".", else: ", and assemble the release again.")
      )
    end
  end

  ## The server

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
      "Its node is not registered at this moment.",
      "Ask again in a second. If it stays so, look at the log, and at who owns the port."
    )
  end

  defp role(%{node: :nonode@nohost}), do: []

  # A node that is found all the same is registered with another EPMD.
  defp role(%{look_up: look_up}) do
    finding = if match?(%{host: {_, {:port, _, _}}}, look_up), do: &warning/3, else: &problem/3

    finding.(
      "No server of embedded_epmd runs in this VM.",
      "It neither serves the port nor takes it when its owner goes.",
      "Add EmbeddedEpmd to the children of your application's supervisor."
    )
  end

  # The server knows, since it has tried.
  defp standby(%{hand_over: true, status: %{role: role, obstacle: obstacle} = status})
       when obstacle != nil and role in [:serving, :joined] and status.standbys == [] and not status.stands_by do
    who =
      if role == :serving, do: "No VM can stand by for this one", else: "This VM cannot stand by for #{status.owner}"

    warning(
      "#{who}: #{obstacle}.",
      "Whenever the port changes hands, stock nodes are unknown for 2 seconds.",
      "Remove that cause for each release of this host, in its unit or its profile, or set hand_over: false, which ends " <>
        "this warning."
    )
  end

  defp standby(%{status: %{role: :serving, standbys: [], descriptor_store: :all} = status}) do
    ok(
      "systemd keeps #{port_and(status)}the connections of all nodes: the next life of this service goes on with them."
    )
  end

  defp standby(%{status: %{role: :serving, standbys: [], descriptor_store: :some}}) do
    warning(
      "systemd keeps no more descriptors for this service.",
      "When it restarts, the nodes beyond register again, which takes them 2 seconds.",
      "Raise FileDescriptorStoreMax= in its unit above the number of nodes, by four; 4,000 are kept at most."
    )
  end

  defp standby(%{status: %{role: :serving, standbys: []} = status} = facts) do
    waits = if status.socket_activated, do: " systemd keeps the port: lookups wait meanwhile.", else: ""
    hint = if facts.service, do: " FileDescriptorStoreMax= in the unit of this service spares them that.", else: ""

    ok(
      "Nobody stands by for this VM: when it goes, stock nodes register again, which takes them 2 seconds." <>
        waits <> hint
    )
  end

  defp standby(%{status: %{role: :serving, standbys: [standby | _]}}) do
    pid = if standby.pid, do: " (pid #{standby.pid})", else: ""
    ok("#{standby.name || "A VM"}#{pid} stands by: when this VM goes, no connection ends.")
  end

  defp standby(_facts), do: []

  defp port_and(%{socket_activated: true}), do: "the port and "
  defp port_and(_status), do: ""

  ## Names that belong to users

  defp reserved_names(%{reserved_names: []}), do: []

  defp reserved_names(%{netlink: {:error, reason}, status: %{role: role}}) when role in [:serving, :joined] do
    warning(
      "This VM cannot ask the kernel whose a registration is (#{:inet.format_error(reason)}).",
      "While it serves, it refuses every registration of a name in :reserved_names but its own node's.",
      "Add AF_NETLINK to RestrictAddressFamilies= in the unit. On another system than Linux do without :reserved_names."
    )
  end

  defp reserved_names(%{reserved_names: names, status: %{role: :serving}}),
    do: ok("These names are registered by processes of their users alone: #{patterns(names)}.")

  defp reserved_names(%{reserved_names: names, status: %{role: :joined}}),
    do: ok("The :reserved_names of the VM that serves are in force; when this one serves, its own: #{patterns(names)}.")

  defp reserved_names(_facts), do: []

  defp patterns(names),
    do: Enum.map_join(names, ", ", fn {pattern, users} -> "#{pattern} (#{Enum.join(users, ", ")})" end)

  ## Descriptors

  defp descriptors(%{stats: %{descriptors: %{limit: limit, used: used}, connections: connections}} = facts)
       when is_integer(limit) do
    ours = connections.registered + connections.waiting
    share = facts.descriptor_share && div(limit * facts.descriptor_share, 100)

    cond do
      is_integer(used) and used >= @nearly_all * limit ->
        warning(
          "This VM has #{used} of its #{limit} descriptors open; #{connections.registered} are of registered nodes, " <>
            "#{connections.waiting} of connections that wait.",
          "At the limit it opens no file, loads no module, and grants no registration.",
          "See who registers so many names (EmbeddedEpmd.names()), or raise the limit: LimitNOFILE= in the unit."
        )

      share != nil and ours >= @nearly_all * share ->
        warning(
          "Registered nodes (#{connections.registered}) and connections that wait (#{connections.waiting}) have #{ours} of " <>
            "the #{share} descriptors that they may have, of #{limit} of this VM.",
          "Beyond that share no registration is granted; the other descriptors are left to the application.",
          "See who registers so many names (EmbeddedEpmd.names()), or raise LimitNOFILE= in the unit, or :descriptor_share."
        )

      limit < @few_descriptors ->
        warning(
          "This VM may open #{limit} descriptors.",
          "Each node that is registered here keeps one, and so does everything else in the VM.",
          "Raise the limit: LimitNOFILE= in the unit, ulimit -n in a shell."
        )

      true ->
        ok("This VM may open #{limit} descriptors.")
    end
  end

  defp descriptors(_facts), do: []
end
