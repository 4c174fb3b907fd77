defmodule EmbeddedEpmd.VmArgsTest do
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Doctor.VmArgs
  alias EmbeddedEpmd.Doctor.VmArgs.Words
  alias Support.Folder

  @module "Elixir.EmbeddedEpmd.Discovery"

  test "what stands behind # does not count" do
    assert VmArgs.flags("+Q 65536\n# -start_epmd true\n  ## -x\n-start_epmd  false # -epmd_module other\n") ==
             [{"+Q", ["65536"]}, {"-start_epmd", ["false"]}]
  end

  for {what, text} <- [
        {"quotes", ~S(-a "x y" 'p q' pre"mid"post "" '' end)},
        {"quotes in quotes", ~S(-q "a'b" 'a"b')},
        {"backslashes", ~S(-b r\ s \#no e\.f "a\.b" 'c\.d' \"x\")},
        {"comments", "-a x#y #z\n-b \"q\"#c d\n-c 'ha#sh' \"ha#sh\" # \"\n-d 1"},
        {"lines", "-a \"two\nlines\"\r\n\t-b 1 \\\n 2"},
        {"a quote without an end", "-k 'x \" \\ y"},
        {"the module in quotes, with a backslash", ~S(-epmd_module "Elixir.EmbeddedEpmd.Discovery" -x Elixir\.A)},
        {"a repeated flag, an emulator flag between", "-a 1 +Q 65536 -a 2\n-start_epmd false"},
        {"words of other alphabets", "-a \"grüße\" w\\ö"}
      ] do
    test "a file is read as erlexec reads it: #{what}" do
      folder = Folder.new("args")
      file = Path.join(folder, "vm.args")
      File.write!(file, unquote(text))
      assert read_here(unquote(text)) == read_by_otp(file)
    end
  end

  test "files that are included are followed, one in another; one that cannot be read stays a flag" do
    folder = Folder.new("args")
    file = fn name -> Path.join(folder, name) end
    File.write!(file.("one"), "-args_file #{file.("two")} -n 2")
    File.write!(file.("two"), "-proto_dist inet_tls")
    text = "-a 1 -args_file #{file.("one")}\n-b"
    File.write!(file.("vm.args"), text)
    assert read_here(text) == read_by_otp(file.("vm.args"))
    assert VmArgs.value(VmArgs.flags(text), "-proto_dist") == "inet_tls"

    flags = VmArgs.flags("-a 1 -args_file /nowhere/more -b 2")
    assert VmArgs.unread(flags) == ["/nowhere/more"]
    assert VmArgs.value(flags, "-b") == "2"
    # One that includes itself ends.
    assert VmArgs.unread(VmArgs.flags("-args_file self", fn "self" -> {:ok, "-args_file self"} end)) == ["self"]
  end

  test "a variable has no comments, and env.sh sets variables" do
    assert VmArgs.of_environment([{"ERL_AFLAGS", "-a #1 'b c'"}, {"ERL_LIBS", "-x"}]) == [{"-a", ["#1", "b c"]}]
    script = "#!/bin/sh\n# export ERL_AFLAGS=\"-x\"\nexport ERL_AFLAGS=\"-proto_dist inet_tls\"\nOTHER=1\n"
    assert VmArgs.of_script(script) == [{"-proto_dist", ["inet_tls"]}]
  end

  test "a line that is written is read as the flag that it was" do
    for values <- [["plain"], ["two words", "it's", "a\"b", "h#x", "back\\slash", ""], ["both'\"quotes"]] do
      assert VmArgs.flags(VmArgs.line({"-x", values})) == [{"-x", values}]
    end
  end

  test "of -start_epmd the last counts, of the others the first" do
    flags = VmArgs.flags("-start_epmd true -epmd_module a\n-epmd_module b -start_epmd false")
    assert VmArgs.value(flags, "-start_epmd") == "false"
    assert VmArgs.value(flags, "-epmd_module") == "a"
    assert VmArgs.value(flags, "-erl_epmd_port") == nil
    assert VmArgs.parameter(VmArgs.flags("-kernel a 1 b 2 -kernel b 3"), "b") == "2"
  end

  test "what is missing is what does not count" do
    wanted = VmArgs.required(:vm_args, false)
    assert VmArgs.missing([], wanted) == wanted
    assert VmArgs.missing(VmArgs.flags("-start_epmd false -epmd_module #{@module}"), wanted) == []
    assert VmArgs.missing(VmArgs.flags("-start_epmd 'false' -epmd_module \"#{@module}\""), wanted) == []
    assert VmArgs.missing(VmArgs.flags("-start_epmd false -start_epmd true"), wanted) == wanted
    # With the kernel parameter no flag is needed for the module.
    assert VmArgs.required(:vm_args, true) == [{"-start_epmd", "false"}]
    assert VmArgs.required(:remote_vm_args, false) == [{"-start_epmd", "false"}]
  end

  for {of, compared_to, lacks} <- [
        {"", "-proto_dist inet_tls -ssl_dist_optfile /o", "-proto_dist inet_tls -ssl_dist_optfile /o"},
        {"", "-proto_dist inet6_tcp", "-proto_dist inet6_tcp"},
        {"-proto_dist inet_tls", "-proto_dist inet_tls -ssl_dist_opt server_certfile c",
         "-ssl_dist_opt server_certfile c"},
        {"-proto_dist inet_tls -ssl_dist_optfile /mine", "-proto_dist inet_tls -ssl_dist_optfile /theirs", ""},
        {"", "-proto_dist inet_tcp", ""},
        {"", "-proto_dist inet_epmd -inet_epmd socket", "-proto_dist inet_epmd -inet_epmd socket"},
        {"-proto_dist inet_epmd", "-proto_dist inet_epmd -inet_epmd tls_socket -ssl_dist_optfile /o",
         "-inet_epmd tls_socket -ssl_dist_optfile /o"},
        {"-proto_dist inet_epmd -inet_epmd socket", "-proto_dist inet_epmd -inet_epmd socket", ""},
        {"-proto_dist inet_tls -ssl_dist_optfile /o", "", ""},
        {"-proto_dist inet_tcp", "-proto_dist inet_tls", ""}
      ] do
    test "what #{inspect(of)} lacks of the transport, compared to #{inspect(compared_to)}" do
      [of, compared_to, lacks] = for text <- [unquote(of), unquote(compared_to), unquote(lacks)], do: VmArgs.flags(text)
      assert VmArgs.transport_lacks(of, compared_to) == lacks
    end
  end

  test "a node is closed by a setting, which counts where it stands first" do
    local = fn text -> VmArgs.local(VmArgs.flags(text)) end
    assert [{"-embedded_epmd", ["local", "true"]} = flag] = local.("-embedded_epmd port 4370 -kernel local true")
    assert VmArgs.line(flag) == "-embedded_epmd local true"
    assert local.("-embedded_epmd port 4370 local true") == []

    assert {:error, "has -embedded_epmd local false" <> _} =
             local.("-embedded_epmd local false -embedded_epmd local true")
  end

  test "two transports that are both named contradict each other" do
    [tls, tcp] = for text <- ["-proto_dist inet_tls", "-proto_dist inet_tcp"], do: VmArgs.flags(text)
    assert VmArgs.transports_differ(tls, tcp) == {"inet_tls", "inet_tcp"}
    assert VmArgs.transports_differ(tls, []) == nil
    assert VmArgs.transports_differ(tls, tls) == nil
  end

  for {line, kind, parameter?, sentence} <- [
        {"-epmd_module Elixir.Other", :vm_args, false, "has -epmd_module Elixir.Other, another discovery module"},
        {"-epmd_module Elixir.Other -epmd_module #{@module}", :vm_args, false,
         "another discovery module; of two, OTP takes the first"},
        {"-kernel epmd_module \"'Elixir.Other'\"", :vm_args, false, "has -kernel epmd_module Elixir.Other"},
        {"-start_epmd true", :vm_args, false, "has -start_epmd true, which starts OTP's daemon"},
        {"-start_epmd false -start_epmd true", :remote_vm_args, false, "has -start_epmd true"},
        {"-no_epmd", :vm_args, false, "has -no_epmd, with which OTP asks no discovery module"},
        {"-no_epmd -start_epmd false", :remote_vm_args, false, "has -no_epmd, with which OTP asks no discovery module"},
        {"-erl_epmd_port 6789", :vm_args, false, "has -erl_epmd_port 6789: with a fixed port a node needs no EPMD"},
        {"-kernel erl_epmd_node_listen_port 6789", :vm_args, false, "has erl_epmd_node_listen_port 6789: with a fixed"},
        {"-epmd_module #{@module}", :remote_vm_args, false, "not for short-lived clients"},
        {"-epmd_module #{@module}", :vm_args, true, "beside the kernel parameter epmd_module: with both"},
        {"-epmd_module #{@module} -kernel epmd_module \"'#{@module}'\"", :vm_args, false, "beside the kernel parameter"}
      ] do
    test "#{line} in #{kind}, #{if parameter?, do: "with", else: "without"} a parameter, contradicts" do
      sentence = VmArgs.contradiction(VmArgs.flags(unquote(line)), unquote(kind), unquote(parameter?))
      assert sentence =~ unquote(sentence)
    end
  end

  test "what counts in the end does not contradict" do
    flags = VmArgs.flags("-start_epmd true -epmd_module #{@module} -epmd_module other -start_epmd false")
    assert VmArgs.contradiction(flags, :vm_args, false) == nil
    assert VmArgs.contradiction(VmArgs.flags("-kernel epmd_module \"'#{@module}'\""), :vm_args, false) == nil
    assert VmArgs.contradiction(VmArgs.flags("-epmd_module \"#{@module}\""), :vm_args, false) == nil
  end

  # The flags of `init` in the order of their names, without those of the emulator, which `erlexec` takes.
  defp read_here(text) do
    for({"-" <> name, values} <- VmArgs.flags(text), name not in ["start_epmd"], do: {name, values}) |> Enum.sort()
  end

  defp read_by_otp(file) do
    print = "lists:foreach(fun(F) -> io:format(\"~w.~n\", [F]) end, init:get_arguments()), halt()."
    {text, 0} = System.cmd("erl", ["-args_file", file, "-noshell", "-start_epmd", "false", "-eval", print])
    {:ok, tokens, _} = text |> String.to_charlist() |> :erl_scan.string()

    for form <- Enum.chunk_while(tokens, [], &dot/2, fn [] -> {:cont, []} end),
        {:ok, {name, values}} = :erl_parse.parse_term(form),
        name not in ~w(root bindir progname home noshell start_epmd eval)a do
      {Atom.to_string(name), Enum.map(values, &to_string/1)}
    end
    |> Enum.sort()
  end

  defp dot({:dot, _} = dot, form), do: {:cont, Enum.reverse([dot | form]), []}
  defp dot(token, form), do: {:cont, [token | form]}

  test "a variable and a file differ in their comments only" do
    assert Words.of_variable("a #b \"c d\"") == ["a", "#b", "c d"]
    assert Words.of_file("a #b \"c d\"") == ["a"]
  end
end
