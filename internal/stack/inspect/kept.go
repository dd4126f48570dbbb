package inspect

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cw "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddb "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/internal/store"
)

func (i *inspection) tables(ctx context.Context) {
	client := dynamodb.NewFromConfig(i.config("DYNAMODB"))
	for _, output := range []string{"GrantsTable", "ApprovalsTable", "RegistryTable", "AuditTable"} {
		name := i.out[output]
		what := "table " + output
		out, err := client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
		if err != nil {
			i.add(what, Fail, "check that your credentials may dynamodb:DescribeTable; a table that is gone is in docs/how-to/restore.md", "%v", err)
			continue
		}
		backups, err := client.DescribeContinuousBackups(ctx, &dynamodb.DescribeContinuousBackupsInput{TableName: &name})
		recovery := err == nil && backups.ContinuousBackupsDescription != nil && backups.ContinuousBackupsDescription.PointInTimeRecoveryDescription != nil &&
			backups.ContinuousBackupsDescription.PointInTimeRecoveryDescription.PointInTimeRecoveryStatus == ddb.PointInTimeRecoveryStatusEnabled
		protected := out.Table.DeletionProtectionEnabled != nil && *out.Table.DeletionProtectionEnabled
		switch {
		case out.Table.TableStatus != ddb.TableStatusActive && out.Table.TableStatus != ddb.TableStatusUpdating:
			i.add(what, Fail, "wait, or see docs/how-to/restore.md", "it is %s", out.Table.TableStatus)
		case err != nil:
			i.add(what, Fail, "check that your credentials may dynamodb:DescribeContinuousBackups", "%v", err)
		case !recovery:
			i.add(what, Fail, "deploy again, or `aws dynamodb update-continuous-backups --table-name "+name+" --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true`",
				"point-in-time recovery is off: what is lost stays lost")
		case !protected && i.Deployment.Parameters["DeletionProtection"] == "false":
			i.add(what, Warn, "deploy with DeletionProtection=true when the stack is more than a trial", "it can be deleted: the stack was deployed with DeletionProtection=false")
		case !protected:
			i.add(what, Fail, "deploy again, or `aws dynamodb update-table --table-name "+name+" --deletion-protection-enabled`", "deletion protection is off, though the stack asks for it")
		default:
			i.add(what, OK, "", "point-in-time recovery and deletion protection are on")
		}
	}
}

// lock looks at what keeps evidence from being deleted.
func (i *inspection) lock(ctx context.Context) {
	const next = "deploy again; evidence that was written meanwhile is not locked: export a copy of it now (docs/how-to/backup.md)"
	config := i.config("S3")
	client := s3.NewFromConfig(config, func(o *s3.Options) { o.UsePathStyle = config.BaseEndpoint != nil })
	bucket := i.out["EvidenceBucket"]
	out, err := client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &bucket})
	switch {
	case err != nil:
		i.add("evidence lock", Fail, "check that your credentials may s3:GetBucketObjectLockConfiguration; "+next, "%v", err)
		return
	case out.ObjectLockConfiguration == nil || out.ObjectLockConfiguration.ObjectLockEnabled != s3types.ObjectLockEnabledEnabled ||
		out.ObjectLockConfiguration.Rule == nil || out.ObjectLockConfiguration.Rule.DefaultRetention == nil:
		i.add("evidence lock", Fail, next, "bucket %s keeps nothing from being deleted", bucket)
		return
	}
	r := out.ObjectLockConfiguration.Rule.DefaultRetention
	days := 0
	if r.Days != nil {
		days = int(*r.Days)
	}
	mode, want := i.Deployment.Parameters["EvidenceLockMode"], i.Deployment.Parameters["EvidenceLockDays"]
	switch {
	case mode != "" && string(r.Mode) != mode, want != "" && fmt.Sprint(days) != want:
		i.add("evidence lock", Fail, next, "%s for %d days, the stack asks for %s for %s days", r.Mode, days, mode, want)
	case r.Mode != s3types.ObjectLockRetentionModeCompliance && days < 7:
		i.add("evidence lock", Warn, "deploy with a greater EvidenceLockDays when the stack is more than a trial", "%s for %d days", r.Mode, days)
	default:
		i.add("evidence lock", OK, "", "%s for %d days", r.Mode, days)
	}
}

func (i *inspection) policy(ctx context.Context) {
	source := i.stack.Bundles()
	if err := i.stack.Err(); err != nil {
		i.add("policy", Fail, "see the failures above", "%v", err)
		return
	}
	b, err := source.Active(ctx)
	if err != nil {
		i.add("policy", Fail, "publish one: `sallyport stack publish DIR --stack "+i.Deployment.Name+"`; until then everything is refused", "%v", err)
		return
	}
	i.add("policy", OK, "", "%s is active", b.Address)
}

// behind is how old a checkpoint may be while entries wait for one: seal takes whole minutes, half a minute after their end, once a minute.
const behind = 5 * time.Minute

// checkpoint holds the published head of the log to what is committed, and to what waits.
func (i *inspection) checkpoint(ctx context.Context) {
	const next = "docs/runbooks/alarms.md, CheckpointAge; decisions go on, and nothing is lost: seal goes on where it stopped"
	key, origin, heads := i.stack.Signer(ctx, stack.KeyCheckpoint), i.stack.Setting(stack.Origin), i.stack.Evidence()
	if err := i.stack.Err(); err != nil {
		i.add("checkpoint", Fail, "see the failures above", "%v", err)
		return
	}
	line, err := audit.VerifierKey(origin, key.Public())
	if err != nil {
		i.add("checkpoint", Fail, next, "%v", err)
		return
	}
	raw, err := heads.Load(ctx, audit.CheckpointName)
	if errors.Is(err, store.ErrNotFound) {
		i.add("checkpoint", Warn, "wait two minutes and look again; then docs/runbooks/alarms.md, SealStopped", "no checkpoint was signed yet")
		return
	}
	if err != nil {
		i.add("checkpoint", Fail, next, "%v", err)
		return
	}
	c, err := audit.OpenCheckpoint(raw, line)
	if err != nil {
		i.add("checkpoint", Fail, "keep a copy of the bucket and of the key's public half, and find out who wrote it (docs/evidence.md)", "the published checkpoint is not one of this stack's key: %v", err)
		return
	}
	cursor, err := i.committed(ctx)
	if err == nil {
		var waiting []store.Item
		waiting, _, err = i.stack.Feed().Since(ctx, store.Audit, cursor, 1)
		if age := i.Now().Sub(c.Time); err == nil && len(waiting) > 0 && age > behind {
			i.add("checkpoint", Fail, next, "the last one is %s old, over %d entries, and entries wait for the next", age.Round(time.Second), c.Size)
			return
		}
	}
	i.verdict("checkpoint", err, next, "over %d entries, signed at %s; nothing waits that is older than five minutes", c.Size, c.Time.UTC().Format(time.RFC3339))
}

// committed is the feed's cursor of the committed head.
func (i *inspection) committed(ctx context.Context) (string, error) {
	it, err := i.stack.Items().Get(ctx, store.Registry, audit.HeadKey, true)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var h audit.Head
	return h.Cursor, decode(it.Body, &h)
}

// maxAlarms bounds what is read: the template makes three dozen.
const maxAlarms = 500

// alarmShape is an alarm's logical name, and what CloudFormation puts behind it.
var alarmShape = regexp.MustCompile(`^[A-Za-z0-9]+Alarm(-[A-Za-z0-9]+)?$`)

// ownAlarm is an alarm's name in its stack; "" for one of another stack, whose name begins like this one's (sallyport, sallyport-dev).
func ownAlarm(name *string, prefix string) string {
	if name == nil {
		return ""
	}
	own, ok := strings.CutPrefix(*name, prefix)
	if !ok || !alarmShape.MatchString(own) {
		return ""
	}
	return own
}

func (i *inspection) alarms(ctx context.Context) {
	client, prefix := cloudwatch.NewFromConfig(i.config("CLOUDWATCH")), i.Deployment.Name+"-"
	pages := cloudwatch.NewDescribeAlarmsPaginator(client, &cloudwatch.DescribeAlarmsInput{AlarmNamePrefix: &prefix})
	var rings []string
	n := 0
	for pages.HasMorePages() && n < maxAlarms {
		page, err := pages.NextPage(ctx)
		if err != nil {
			i.add("alarms", Fail, "check that your credentials may cloudwatch:DescribeAlarms", "%v", err)
			return
		}
		for _, a := range page.MetricAlarms {
			name := ownAlarm(a.AlarmName, prefix)
			if name == "" {
				continue
			}
			n++
			if a.StateValue == cw.StateValueAlarm {
				rings = append(rings, name)
			}
		}
	}
	switch {
	case n == 0:
		i.add("alarms", Fail, "deploy again: the stack has alarms", "there are none")
	case len(rings) > 0:
		i.add("alarms", Fail, "docs/runbooks/alarms.md says what each means", "%s", strings.Join(rings, ", "))
	case i.Deployment.Parameters["AlarmTopicArn"] == "":
		i.add("alarms", Warn, "deploy with AlarmTopicArn, an SNS topic that somebody reads", "none of %d rings, and nobody would be told: the stack has no topic", n)
	default:
		i.add("alarms", OK, "", "none of %d rings", n)
	}
}
