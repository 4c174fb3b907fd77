defmodule EmbeddedEpmd.PackageTest do
  # What a release relies on and no compiler looks at: the package's files, the workflows, and how a release is made.
  use ExUnit.Case, async: true

  @root Path.expand("..", __DIR__)

  test "every file that the package names exists" do
    for pattern <- Mix.Project.config()[:package][:files] do
      assert Path.wildcard(Path.join(@root, pattern), match_dot: true) != [], "nothing matches #{pattern}"
    end
  end

  test "every page of the documentation exists" do
    for extra <- Mix.Project.config()[:docs][:extras] do
      path = if is_tuple(extra), do: Atom.to_string(elem(extra, 0)), else: extra
      assert File.regular?(Path.join(@root, path)), "#{path} does not exist"
    end
  end

  test "the workflows name each action by its commit, and commands that exist" do
    for {file, text} <- workflows() do
      for [_, action] <- Regex.scan(~r/uses: (\S+.*)/, text), not String.starts_with?(action, "./") do
        assert action =~ ~r/^[\w.-]+\/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, "#{file}: #{action}"
      end

      for [command] <- Regex.scan(~r/\bbin\/[\w-]+/, text) do
        assert File.regular?(Path.join(@root, command)), "#{file}: #{command} does not exist"
      end
    end
  end

  test "only the publication has a secret, and only after a reviewer" do
    secrets = for {file, text} <- workflows(), [line] <- Regex.scan(~r/^.*\bsecrets[.:].*$/m, text), do: {file, line}
    assert [{"release.yml", line}] = secrets
    assert line =~ "HEX_API_KEY"
    [_, publish] = String.split(workflow("release.yml"), "\n  publish:\n")
    assert publish =~ "environment: hex" and publish =~ line
  end

  test "RELEASE.md and the workflow name the same jobs and the same command" do
    workflow = workflow("release.yml")
    [_, jobs] = String.split(workflow, "\njobs:\n")
    guide = File.read!(Path.join(@root, "RELEASE.md"))
    jobs = for [_, job] <- Regex.scan(~r/^  (\w+):$/m, jobs), do: job
    assert "publish" in jobs
    for job <- jobs, do: assert(guide =~ "`#{job}`", "RELEASE.md does not name the job #{job}")
    [command] = Regex.run(~r/bin\/matrix prebuilt.*/, workflow)
    assert guide =~ "`#{command}`"
  end

  describe "bin/release check" do
    setup do
      folder = Support.Folder.new("release")
      own = ~w(bin Cargo.toml Cargo.lock mix.exs CHANGELOG.md)
      # Cargo reads them, too.
      for file <- File.ls!(@root) -- own, do: File.ln_s!(Path.join(@root, file), Path.join(folder, file))
      for file <- own, do: File.cp_r!(Path.join(@root, file), Path.join(folder, file))
      edit(folder, "Cargo.toml", ~r/^version = ".*"$/m, ~s(version = "9.8.7"))
      edit(folder, "Cargo.lock", ~r/(name = "(?:epmd_\w+|bench)"\nversion = )".*"/, ~s(\\1"9.8.7"))
      edit(folder, "mix.exs", ~r/@source_url .*/, ~s(@source_url "https://example.com/us/embedded_epmd"))
      edit(folder, "CHANGELOG.md", ~r/\z/, "\n## [9.8.7] - 2030-01-01\n\nNews.\n\n## [9.8.6] - 2029-01-01\n\nOld.\n")
      %{folder: folder}
    end

    test "accepts what is ready, and the notes are the version's", %{folder: folder} do
      assert release(folder, ["check", "v9.8.7"]) == {"9.8.7 can be released.\n", 0}
      assert release(folder, ["notes"]) == {"\nNews.\n\n", 0}
    end

    test "says what is missing", %{folder: folder} do
      assert {"The tag is v9.8.8, and the version" <> _, 1} = release(folder, ["check", "v9.8.8"])
      assert {"@source_url in mix.exs is https" <> _, 1} = release(folder, ["check", "v9.8.7"], "them/embedded_epmd")
      edit(folder, "mix.exs", ~r/@source_url ".*/, "@source_url nil")
      assert {"@source_url in mix.exs is not set" <> _, 1} = release(folder, ["check", "v9.8.7"])
      edit(folder, "Cargo.lock", ~s("9.8.7"), ~s("9.8.6"))
      assert {output, 1} = release(folder, ["check", "v9.8.7"])
      assert output =~ "Cargo.lock is not up to date"
      edit(folder, "CHANGELOG.md", "[9.8.7]", "[Unreleased]")
      assert {"CHANGELOG.md has no section [9.8.7]" <> _, 1} = release(folder, ["check", "v9.8.7"])
      edit(folder, "Cargo.toml", ~s("9.8.7"), ~s("9.8.7-dev"))
      assert {"9.8.7-dev is no version to release" <> _, 1} = release(folder, ["check", "v9.8.7-dev"])
    end
  end

  defp workflows do
    for path <- Path.wildcard(Path.join(@root, ".github/workflows/*.yml"), match_dot: true),
        do: {Path.basename(path), File.read!(path)}
  end

  defp workflow(name), do: File.read!(Path.join([@root, ".github/workflows", name]))

  defp edit(folder, file, pattern, replacement) do
    path = Path.join(folder, file)
    text = File.read!(path)
    changed = String.replace(text, pattern, replacement)
    assert changed != text
    File.write!(path, changed)
  end

  defp release(folder, arguments, repository \\ "us/embedded_epmd") do
    System.cmd(Path.join(folder, "bin/release"), arguments,
      env: [
        {"GITHUB_SERVER_URL", "https://example.com"},
        {"GITHUB_REPOSITORY", repository},
        {"CARGO_NET_OFFLINE", "true"}
      ],
      stderr_to_stdout: true
    )
  end
end
